"""The main job, as a newcomer runs it."""

import json
import signal
import socket

import pytest
from PIL import Image

from deepseek.client.names import short_name
from deepseek.models.selection import MIN_SPEEDUP
from deepseek.processor import instruction_set
from deepseek.services import SERVICES
from tests.e2e.conftest import Demo, Home
from tests.harness.processes import processes_of, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_the_served_model_answers_the_test_questions(demo: Demo) -> None:
    assert demo.figures["num_questions"] == 9673
    assert float(str(demo.figures["test_accuracy"])) >= 0.995


def test_served_and_offline_accuracy_are_equal(demo: Demo) -> None:
    assert demo.figures["served_equals_offline"] is True
    assert demo.figures["test_accuracy"] == demo.figures["offline_accuracy"]


def test_the_report_says_which_format_was_trained_in_and_on_which_processor(demo: Demo) -> None:
    ratios = demo.figures["precision_ratios"]
    assert isinstance(ratios, dict)
    assert set(ratios) == {"fp32", "bf16", "fp16"}
    assert min(ratios.values()) == 1.0
    # Not always the fastest: a run that was resumed keeps its format.
    assert demo.figures["precision"] in ratios
    assert demo.figures["instruction_set"] == instruction_set()


def test_commands_show_the_precision_and_the_served_file(demo: Demo) -> None:
    version, file = str(demo.figures["model_version"]), str(demo.figures["served_file"])
    up = demo.home.run("up", "--free-ports")
    assert up.returncode == 0, up.stderr
    try:
        lineage = demo.home.run("model", "lineage", version)
        models = demo.home.run("model", "list")
        as_json = demo.home.run("model", "list", "--json")
    finally:
        demo.home.run("down")
    assert lineage.returncode == models.returncode == as_json.returncode == 0, lineage.stderr + models.stderr
    assert f"trained in {demo.figures['precision']} (" in lineage.stdout
    assert f"{short_name(version)} " in models.stdout
    (listed,) = json.loads(as_json.stdout)
    assert listed["version"] == version
    assert listed["served"].startswith(f"{'int8' if 'int8' in file else 'fp32'} on {instruction_set()}: ")


def test_the_loss_of_int8_without_avx512_is_measured_where_it_can_be(demo: Demo) -> None:
    loss = demo.figures["int8_loss_points_avx2"]
    if loss is None:
        pytest.skip("this processor has AVX-512, and qemu-x86_64 is not installed")
    assert float(str(loss)) <= 0.5


def test_killing_the_demo_in_training_leaves_no_process(demo: Demo) -> None:
    assert demo.survivors == {}


def test_the_report_holds_the_figures_and_the_pictures(demo: Demo) -> None:
    assert json.loads((demo.report / "report.json").read_text()) == demo.figures
    for name in ("learning-curve.png", "contact-sheet.png"):
        with Image.open(demo.report / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) >= 400
    assert 'deepseek ask demo-report/example.png "what shape is it?"' in demo.output


def test_int8_is_served_only_if_faster_and_as_good(demo: Demo) -> None:
    speedup, loss = float(str(demo.figures["int8_speedup"])), float(str(demo.figures["int8_loss_points"]))
    if abs(speedup - MIN_SPEEDUP) > 0.2:  # near the limit, the serving host may decide otherwise
        assert ("int8" in str(demo.figures["served_file"])) == (speedup > MIN_SPEEDUP and loss <= 0.5)


def test_a_second_demo_adds_no_blob_and_reuses_the_run(demo: Demo) -> None:
    again = demo.home.run("demo", "--free-ports", "--json")
    assert again.returncode == 0, again.stderr
    figures = json.loads(again.stdout.splitlines()[-1])
    assert figures["blobs_added"] == 0
    assert figures["reused_run"] is True
    for same in ("run", "dataset_version", "model_version", "test_accuracy"):
        assert figures[same] == demo.figures[same]
    assert processes_of(demo.home.path) == {}


def test_control_c_stops_everything(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = Home(tmp_path_factory.mktemp("interrupted") / "home")
    process = home.start("demo", "--free-ports")
    wait_until(lambda: (home.path / "mesh.json").exists() or process.poll() is not None, "the mesh to be up")
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()  # one that did not stop must not disturb the tests after this one
        process.wait()
    assert process.returncode == 130, errors
    assert "stopped" in errors
    assert processes_of(home.path) == {}


def test_a_taken_port_is_named_and_nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = Home(tmp_path_factory.mktemp("taken") / "home")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", SERVICES["ingest"].port))
        taken.listen()
        done = home.run("up")
    assert done.returncode == 1
    assert "PORT_TAKEN" in done.stderr
    assert "field: port" in done.stderr
    assert str(SERVICES["ingest"].port) in done.stderr
    assert processes_of(home.path) == {}
