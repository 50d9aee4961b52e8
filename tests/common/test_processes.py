"""Children, grandchildren and their ends; real processes, each bounded in time."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common import processes
from common.processes import bound_log, bounding_log, safe_environment, spawn, terminate
from tests.harness.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]

# A process in between that knows nothing of us and starts the last one in a new session.
MIDDLE = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
time.sleep(60)
"""
LAST = """
import os, pathlib, sys, time
from common.processes import die_with_parent
die_with_parent()
pathlib.Path({file!r}).write_text(str(os.getpid()))
time.sleep(60)
"""
PARENT = """
import pathlib, sys, time
from common.processes import spawn
process = spawn([sys.executable, "-c", *sys.argv[2:]], env=None, log=pathlib.Path(sys.argv[1]))
print(process.pid, flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.faults
@pytest.mark.parametrize("between", [False, True], ids=["child", "grandchild in a new session"])
def test_a_child_ends_when_its_parent_is_killed(between: bool, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    last = LAST.format(file=str(file))
    programs = [MIDDLE, last] if between else [last]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log"), *programs], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        started = int(parent.stdout.readline())
        wait_until(lambda: file.exists() and file.read_text() != "", "the last process")
        pid = int(file.read_text())
        assert is_alive(pid)
    finally:
        parent.kill()
        parent.communicate()
    wait_until(lambda: not is_alive(pid), "the end of the orphan", timeout_s=60)
    if between:  # it knows nothing of us, so it is still there
        os.kill(started, signal.SIGKILL)


def test_a_process_between_that_is_killed_takes_its_child_along(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    middle = spawn([sys.executable, "-c", MIDDLE, LAST.format(file=str(file))], env=None, log=tmp_path / "log")
    wait_until(lambda: file.exists() and file.read_text() != "", "the last process")
    pid = int(file.read_text())
    terminate(middle, grace_s=5)
    wait_until(lambda: not is_alive(pid), "the end of the orphan", timeout_s=60)


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    program = "from common.processes import die_with_parent; die_with_parent(); print('alive')"
    environment = {**os.environ, "DEEPSEEK_PARENT_PID": str(gone.pid)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


def test_a_child_holds_nothing_of_its_parents_output(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\nfrom common.processes import spawn\n"
        "p = spawn([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'], env=None,"
        f" log=pathlib.Path({str(tmp_path / 'log')!r}), detach=True)\nprint(p.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    pid = int(done.stdout)
    wait_until(lambda: (tmp_path / "log").read_text() == "1\n", "the child's output in its log")
    assert is_alive(pid)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    os.kill(pid, signal.SIGKILL)


def test_terminate_kills_what_does_not_listen(tmp_path: Path) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    process = spawn([sys.executable, "-c", program], env=None, log=tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text(), "the child")
    assert terminate(process, grace_s=0.2) == -signal.SIGKILL


@pytest.mark.faults
def test_a_program_that_knows_nothing_of_us_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\nfrom common.processes import spawn\n"
        "print(spawn(['sleep', '60'], env=None, log=pathlib.Path(sys.argv[1])).pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), "the program")
    finally:
        parent.kill()
        parent.communicate()
    wait_until(lambda: not is_alive(pid), "the end of the orphan", timeout_s=60)


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    file, children = tmp_path / "pid", []
    program = [sys.executable, "-c", LAST.format(file=str(file))]
    thread = threading.Thread(target=lambda: children.append(spawn(program, env=None, log=tmp_path / "log")))
    thread.start()
    thread.join()
    wait_until(lambda: file.exists() and file.read_text() != "", "the child")
    with pytest.raises(subprocess.TimeoutExpired):
        children[0].wait(0.3)
    terminate(children[0], grace_s=5)


def test_what_a_dying_leader_started_in_its_group_dies_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    leader = (
        "import os, subprocess, sys, time\nfrom common.processes import die_with\ndie_with(int(sys.argv[1]))\n"
        "child = subprocess.Popen(['sleep', '60'])\nopen(sys.argv[2], 'w').write(str(child.pid))\ntime.sleep(60)"
    )
    followed = subprocess.Popen(["sleep", "60"])
    process = spawn([sys.executable, "-c", leader, str(followed.pid), str(file)], env=None, log=tmp_path / "log")
    wait_until(lambda: file.exists() and file.read_text() != "", "the leader's child")
    followed.kill()
    followed.wait()
    assert process.wait(10) == -signal.SIGKILL
    wait_until(lambda: not is_alive(int(file.read_text())), "the end of the leader's child", timeout_s=60)


def test_a_program_that_is_missing_says_so_in_its_log(tmp_path: Path) -> None:
    process = spawn([str(tmp_path / "missing")], env=None, log=tmp_path / "log")
    assert process.wait(10) != 0
    assert "missing: No such file" in (tmp_path / "log").read_text()


def test_terminate_leaves_alone_what_it_has_seen_end(tmp_path: Path) -> None:
    process = spawn([sys.executable, "-c", "raise SystemExit(3)"], env=None, log=tmp_path / "log")
    assert process.wait(10) == 3
    assert terminate(process, grace_s=0) == 3


def test_nothing_is_imported_from_where_a_command_is_typed(tmp_path: Path) -> None:
    here, plug_ins = tmp_path / "here", tmp_path / "plug-ins"
    for folder, module in ((here, "random"), (here, "mine"), (plug_ins, "plug_in")):
        folder.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(f"print({module!r}, flush=True)")
    # Its own child is started by somebody who knows nothing of us.
    child = "import random, plug_in, subprocess, sys; subprocess.run([sys.executable, '-m', 'mine'])"
    parent = "import pathlib, sys; from common.processes import spawn; env = {'PYTHONPATH': sys.argv[2]}\n"
    parent += f"spawn([sys.executable, '-c', {child!r}], env=env, log=pathlib.Path(sys.argv[1])).wait()"
    command = [sys.executable, "-P", "-c", parent, str(tmp_path / "log"), f"{os.pathsep}{plug_ins}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=here, env=environment, check=True, timeout=30)
    said = (tmp_path / "log").read_text()
    assert said.startswith("plug_in\n")
    assert "No module named mine" in said


def test_empty_entries_of_the_python_path_are_dropped() -> None:
    given = {"PYTHONPATH": os.pathsep.join(["", "/opt/mine", "", "lib"]), "HOME": "/h"}
    expected = {"PYTHONPATH": os.pathsep.join(["/opt/mine", "lib"]), "HOME": "/h", "PYTHONSAFEPATH": "1"}
    assert safe_environment(given) == expected
    assert safe_environment({}) == {"PYTHONSAFEPATH": "1"}


def test_a_log_that_has_grown_begins_anew_under_the_process_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 100)
    log, go = tmp_path / "log", tmp_path / "go"
    program = f"print('x' * 150, flush=True)\nimport os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(.01)\n"
    process = spawn([sys.executable, "-c", program + "print('second')"], env=None, log=log)
    wait_until(lambda: log.stat().st_size > 150, "the first line")
    bound_log(log)
    go.touch()
    process.wait()
    bound_log(log)
    assert (log.read_text(), (tmp_path / "log.1").read_text()) == ("second\n", "x" * 150 + "\n")
    assert (tmp_path / "log.1").stat().st_mode & 0o777 == 0o600
    log.write_bytes(b"y" * 101)
    spawn([sys.executable, "-c", "print('third')"], env=None, log=log).wait()
    assert (log.read_text(), (tmp_path / "log.1").read_text()) == ("third\n", "y" * 101)


def test_a_log_is_bounded_while_the_process_that_writes_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 100)
    monkeypatch.setattr(processes, "_LOG_INTERVAL_S", 0.01)
    log, moved = tmp_path / "log", tmp_path / "log.1"
    program = "import time\nfor number in range(10**6): print('line', number, flush=True); time.sleep(.005)"
    process = spawn([sys.executable, "-c", program], env=None, log=log)
    try:
        with bounding_log(log):
            wait_until(lambda: moved.exists() and moved.read_text()[:7] not in ("", "line 0\n"), "the second move")
        wait_until(lambda: log.stat().st_size > 1000, "lines after the end")
    finally:
        terminate(process, grace_s=5)


def test_a_log_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    bound_log(tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
