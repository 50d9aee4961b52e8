"""Compares rounds per second with plain Flower, with the same model, data and machine.

Each block runs a federation of the mesh (four stock SuperNodes, TLS and node keys), plain Flower in its default
configuration (a process per message), and plain Flower with `--isolation process`. Plain Flower runs
`benchmarks/federated_peer` over plain HTTP, with FedAvg: each round trains and then evaluates on every node. A node of
the mesh does both for one message. Every second block also measures plain Flower that only trains, and nodes of the
mesh without `preload`. `--quick` measures one round of one node, of all systems at once.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from subprocess import Popen
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import federated_worker
from benchmarks.report import ROOT, Record, Rounds, certify, print_figures, progress_file, provenance
from benchmarks.statistics import median_interval
from common.ports import free_ports
from common.processes import spawn, terminate
from deepseek.demo import colours, federation
from deepseek.federated.flower.control import Control, build_fab
from deepseek.federated.flower.superlink import environment
from protos.federated.v1 import federated_pb2
from tests.harness.mesh import embedded_mesh

NUM_BLOCKS, QUICK_BLOCKS = 6, 1
NUM_ROUNDS, QUICK_ROUNDS = 2, 1
QUICK_NODES = 1
SIZE = 32
SYSTEMS = ("mesh", "no_preload", "flower", "isolated", "flower_train", "isolated_train")
RATIOS = {
    "rounds_vs_flower": ("mesh", "flower"),
    "rounds_vs_process_isolation": ("mesh", "isolated"),
    "rounds_vs_flower_train_only": ("mesh", "flower_train"),
    "rounds_vs_process_isolation_train_only": ("mesh", "isolated_train"),
    "rounds_without_preload_vs_flower": ("no_preload", "flower"),
    "rounds_without_preload_vs_process_isolation": ("no_preload", "isolated"),
}
"""Each figure with the two systems that it compares."""
_PEER = Path(__file__).parent / "federated_peer"
_RUN_S = 1800.0
_STOP_S = 15.0
_POLL_S = 0.2


def write_data(folder: Path) -> tuple[Path, Sequence[Path], Sequence[Path]]:
    """Writes the images of the federated demo.

    Returns:
        The coordinator's folder, the nodes' folders, and the nodes' files for plain Flower. The latter hold decoded
        images in the size of the model's input, and labels.
    """
    own, shares = colours.write(folder / "images", federation.NUM_NODES)
    files = []
    for share in shares:
        paths = sorted((share / "train").glob("*/*.png"))
        images = [np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE))) for path in paths]
        labels = [colours.COLOURS.index(path.parent.name) for path in paths]
        files.append(folder / f"{share.name}.npz")
        np.savez(files[-1], images=np.stack(images), labels=np.array(labels))
    return own, shares, files


def measure_mesh(own: Path, shares: Sequence[Path], num_rounds: int, *, preload: bool = True) -> dict[str, float]:
    """Returns the seconds of the first round, and of the mean of the others, in a new mesh, and of loading data.

    Args:
        own: The coordinator's data.
        shares: Data of each node.
        num_rounds: Number of rounds.
        preload: Whether a process that has imported the client app starts it, see `NodeConfig`.
    """
    with ExitStack() as owned:
        folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="federated-")))
        embedded = owned.enter_context(embedded_mesh(folder / "home"))
        mesh = owned.enter_context(embedded.connect())
        version = federation.import_reference(mesh, own)
        name = federation.create(mesh)
        worker = federated_worker.__name__
        owned.enter_context(federation.joined(mesh, name, shares, folder, preload=preload, worker=worker))
        run = mesh.federated.start(name, _spec(version, num_rounds, len(shares)))
        ends = [_start(mesh.federated.watch(run.name))]
        ends += [
            event.time.ToMicroseconds() / 1e6
            for event in mesh.federated.watch(run.name)
            if event.HasField("round") and event.round.round.state == federated_pb2.ROUND_STATE_RELEASED
        ]
        mesh.federated.wait(run.name)
        loads = [one for node in folder.glob("*-work") for one in federated_worker.read_loads(node)]
    return {**_seconds(ends, num_rounds), **load_seconds(loads, num_rounds, len(shares))}


def _spec(version: str, num_rounds: int, num_nodes: int) -> dict[str, Any]:
    spec = federation.spec(version, "")
    optimizer = {"name": "sgd", "params": {"lr": 0.05}}
    image = {"field": "image", "encoder": {"name": "image", "params": {"size": SIZE}}}
    network = {"name": "cnn", "params": {"width": 8, "dropout": 0.0, "norm": "group"}}
    model = {**spec["model"], "model": network, "inputs": [image], "optimizer": optimizer, "batch_size": 32}
    return {**spec, "model": model, "num_rounds": num_rounds, "local_epochs": 1, "quorum": num_nodes}


def _start(events: Iterator[federated_pb2.RunEvent]) -> float:
    """Returns when the first round was planned."""
    return next(event.time.ToMicroseconds() / 1e6 for event in events if event.HasField("round"))


def measure_flower(
    files: Sequence[Path], num_rounds: int, *, isolated: bool, evaluate: bool = True
) -> dict[str, float]:
    """Returns the seconds of the first round, and of the mean of the others, of plain Flower, and of loading data.

    Args:
        files: Data of each node.
        num_rounds: Number of rounds.
        isolated: Whether a `flower-superexec` beside the SuperLink and each SuperNode starts the apps.
        evaluate: Whether each round also evaluates the new model on every node.
    """
    with tempfile.TemporaryDirectory(prefix="flower-") as name, _flower(Path(name), files, isolated=isolated) as port:
        folder, times = Path(name), Path(name, "times")
        app = {str(path.relative_to(_PEER)): path.read_bytes() for path in _PEER.rglob("*") if path.suffix in _SUFFIXES}
        control = Control(f"127.0.0.1:{port}", None)
        try:
            config = {"num-rounds": num_rounds, "num-nodes": len(files), "evaluate": evaluate, "times": str(times)}
            run = control.start_run(build_fab(app), config)
            deadline = time.monotonic() + _RUN_S
            while not (state := next(one for one in control.runs() if one.run_id == run)).finished:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"plain Flower did not finish {num_rounds} rounds in {_RUN_S} s")
                time.sleep(1)
        finally:
            control.close()
        ends = [float(line) for line in times.read_text(encoding="ascii").split()] if times.exists() else []
        if len(ends) != num_rounds + 1:
            logs = "".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
            raise RuntimeError(f"plain Flower ended after {len(ends)} rounds: {state.details}\n{logs}")
        # Flower's means over the nodes, so that they are those of one node.
        rows = [line.split() for line in times.with_suffix(".loads").read_text(encoding="ascii").splitlines()]
        loads = [(int(number), float(load_s)) for number, load_s in rows]
        return {**_seconds(ends, num_rounds), **load_seconds(loads, num_rounds, 1)}


_SUFFIXES = (".py", ".toml")


def _seconds(ends: Sequence[float], num_rounds: int) -> dict[str, float]:
    """Returns the seconds of the first round and of the mean later one, given the start and the end of each round.

    The first round includes the start of processes, so it is reported separately. The last round of the mesh includes
    the export and the registration of the model. If there is only one round, it is also reported as the mean later one.
    """
    if len(ends) != num_rounds + 1:
        raise RuntimeError(f"{len(ends) - 1} of {num_rounds} rounds were completed")
    first_s = ends[1] - ends[0]
    return {"first_s": first_s, "round_s": (ends[-1] - ends[1]) / (num_rounds - 1) if num_rounds > 1 else first_s}


def load_seconds(loads: Sequence[tuple[int, float]], num_rounds: int, num_nodes: int) -> dict[str, float]:
    """Returns for how long nodes load data, in seconds.

    Plain Flower reads decoded images for every message. A node of the mesh decodes its images once, when it is asked
    before the first round whether it can take part, and keeps them in memory.

    Args:
        loads: Round and seconds of every message, 0 before the first round.
        num_rounds: Number of rounds.
        num_nodes: Number of nodes whose messages these are.

    Returns:
        `first_load_s`, of all messages to a node until the end of the first round together, and `load_s`, the mean per
        message of the later rounds; of the first round if there is only one.

    >>> load_seconds([(0, 3.0), (1, 1.0), (2, 0.2), (2, 0.4)], 2, 1)
    {'first_load_s': 4.0, 'load_s': 0.3}
    """
    least = min(2, num_rounds)
    return {
        "first_load_s": sum(seconds for number, seconds in loads if number <= 1) / num_nodes,
        "load_s": round(fmean(seconds for number, seconds in loads if number >= least), 9),
    }


@contextmanager
def _flower(folder: Path, files: Sequence[Path], *, isolated: bool) -> Iterator[int]:
    """Starts a SuperLink and a SuperNode per file, and yields the SuperLink's port."""
    link, *nodes = free_ports(1 + len(files))
    isolation = ["--isolation=process"] if isolated else []
    variables = environment(folder / "flwr")
    running: list[Popen[bytes]] = []

    def start(name: str, *argv: str) -> None:
        running.append(spawn(argv, env=variables, log=folder / f"{name}.log"))

    def start_apps(name: str, port: int) -> None:
        if isolated:
            start(f"{name}-exec", "flower-superexec", "--insecure", f"--runtime-api-address=127.0.0.1:{port}")

    try:
        database = folder / "superlink.db"
        no_installation = "--disable-runtime-dependency-installation"
        port = f"--port={link}"
        start("link", "flower-superlink", "--insecure", port, f"--database={database}", no_installation, *isolation)
        _wait_for_port(link)
        start_apps("link", link)
        for number, (file, port_number) in enumerate(zip(files, nodes, strict=True), 1):
            config = f'--node-config=data="{file}"'
            at = (f"--superlink=127.0.0.1:{link}", f"--port={port_number}")
            start(f"node-{number}", "flower-supernode", "--insecure", *at, config, *isolation)
            start_apps(f"node-{number}", port_number)
        yield link
    finally:
        for process in reversed(running):
            terminate(process, grace_s=_STOP_S)


def _wait_for_port(port: int) -> None:
    import socket

    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the median ratios of rounds per second with their intervals, and the median times.

    A figure that no block has measured is null.
    """
    blocks = [record for record in records if record["part"] == "block"]
    result: dict[str, Any] = {}
    for key, (ours, peer) in RATIOS.items():
        found = _ratios(blocks, ours, peer)
        result[key], result[f"{key}_interval"] = median_interval(found) if found else (None, None)
    for name in SYSTEMS:
        for part in ("round_s", "first_s", "load_s", "first_load_s"):
            times = [one[f"{name}_{part}"] for one in blocks if f"{name}_{part}" in one]
            result[f"{name}_{part}"] = median_interval(times)[0] if times else None
    return result


def _ratios(blocks: Sequence[Record], ours: str, peer: str) -> list[float]:
    keys = f"{peer}_round_s", f"{ours}_round_s"
    return [one[keys[0]] / one[keys[1]] for one in blocks if all(key in one for key in keys)]


def block(
    own: Path, shares: Sequence[Path], files: Sequence[Path], num_rounds: int, *, variants: bool, quick: bool
) -> dict[str, float]:
    """Measures each system once, in turn.

    Args:
        own: The coordinator's data.
        shares: Data of each node.
        files: Data of each node for plain Flower.
        num_rounds: Number of rounds.
        variants: Whether to measure also the systems that the main ratios do not need.
        quick: Whether to measure all systems at the same time.
    """
    measures: dict[str, Callable[[], dict[str, float]]] = {
        "mesh": lambda: measure_mesh(own, shares, num_rounds),
        "flower": lambda: measure_flower(files, num_rounds, isolated=False),
        "isolated": lambda: measure_flower(files, num_rounds, isolated=True),
    }
    if variants:
        measures |= {
            "no_preload": lambda: measure_mesh(own, shares, num_rounds, preload=False),
            "flower_train": lambda: measure_flower(files, num_rounds, isolated=False, evaluate=False),
            "isolated_train": lambda: measure_flower(files, num_rounds, isolated=True, evaluate=False),
        }
    if quick:
        with ThreadPoolExecutor(len(measures)) as threads:
            measured = dict(zip(measures, threads.map(lambda measure: measure(), measures.values()), strict=True))
    else:
        measured = {name: measure() for name, measure in measures.items()}
    return {f"{name}_{key}": value for name, one in measured.items() for key, value in one.items()}


def main() -> None:
    """Measures missing blocks, prints the results, and certifies them if this was a full run on a clean tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="the first round of one node; certify nothing")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes are stopped and folders removed
    # Nodes import `federated_worker` from this folder; a dependency has installed a package of the same name.
    os.environ["PYTHONPATH"] = str(ROOT)
    where = provenance()
    file = progress_file("federated", where, "quick" if quick else "full")
    if quick:
        file.unlink(missing_ok=True)
    rounds = Rounds(file)
    num_blocks, num_rounds = (QUICK_BLOCKS, QUICK_ROUNDS) if quick else (NUM_BLOCKS, NUM_ROUNDS)
    num_nodes = QUICK_NODES if quick else federation.NUM_NODES
    folder = Path(tempfile.mkdtemp(prefix="federated-data-"))
    try:
        own, shares, files = write_data(folder)
        shares, files = shares[:num_nodes], files[:num_nodes]
        for number in range(num_blocks):
            variants = not quick and number % 2 == 0
            measure = partial(block, own, shares, files, num_rounds, variants=variants, quick=quick)
            rounds.measure("block", number, measure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "n": num_blocks,
        "n_variants": 0 if quick else -(-num_blocks // 2),
        "quick": quick,
        "nodes": num_nodes,
        "rounds": num_rounds,
        **summary(rounds.records),
        **where,
    }
    print_figures(result)
    file.unlink()
    certify("federated", result, full=not quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
