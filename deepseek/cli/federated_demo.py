"""`deepseek federated demo`: rounds of four nodes on this machine, without and with differential privacy."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from deepseek.cli.demo import running_mesh
from deepseek.cli.federated_rounds import last_rounds, show_rounds
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.mesh import FreePorts
from deepseek.cli.output import AsJson, begin_step, console, make_folder, print_json, print_table, writing
from deepseek.client import Mesh
from protos.federated.v1 import federated_pb2 as pb


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the mesh running at the end.")] = False,
    free_ports: FreePorts = False,
    report: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("federated-report"),
    as_json: AsJson = False,
) -> None:
    """Train a model in 10 rounds with four nodes that keep their images, first without and then with privacy.

    The nodes are Flower's own SuperNodes, started as processes on this machine. Some nodes have hardly any images of
    some colours. The demo starts a mesh, and stops it at the end unless --keep is set.
    """
    start = time.perf_counter()
    make_folder(report, "--report")
    message = "stopped; the nodes are disconnected, and `deepseek federated demo` starts the demo again"
    with when_interrupted(message), running_mesh(keep=keep, free_ports=free_ports) as mesh:
        figures, plain, private = _run(mesh)
    figures["total_s"] = time.perf_counter() - start
    begin_step("report")
    from deepseek.demo.federation import EPSILON
    from deepseek.demo.federation_report import write_rounds
    from deepseek.demo.report import write_json

    with writing(report, "--report"):
        write_json(report / "report.json", figures)
        write_rounds(report / "rounds.png", figures["accuracy_start"], plain, private, EPSILON)
    _print(figures, report)
    if as_json:
        print_json(figures)


def _run(mesh: Mesh) -> tuple[dict[str, Any], list[pb.Round], list[pb.Round]]:
    """Returns the figures, and the released rounds of the run without and of the run with privacy."""
    # Imported here, because every command would wait for NumPy if this module were imported at the top.
    from deepseek.demo import federation
    from deepseek.demo.federation_report import accuracy

    begin_step("data")
    with federation.data() as (folder, own, shares):
        version = federation.import_reference(mesh, own)
        console.print(f"{version}: the coordinator's own images; the others are divided among {len(shares)} nodes")
        begin_step("start")
        start = federation.train_start(mesh, version)
        accuracy_start = federation.accuracy_of(mesh, start)
        console.print(f"{start}: trained on the coordinator's own images; both runs start from it", highlight=False)
        name = federation.create(mesh)
        begin_step("nodes")
        with federation.joined(mesh, name, shares, folder):
            console.print(f"{len(shares)} nodes of {name} are online", highlight=False)
            begin_step("rounds without privacy")
            plain, plain_run = _rounds(mesh, name, federation.spec(version, start))
            begin_step("rounds with privacy")
            budget = federation.create_budget(mesh, name)
            private, private_run = _rounds(mesh, name, federation.spec(version, start, budget=budget))
        mesh.federated.delete(name)
    figures = {
        "accuracy_start": accuracy_start,
        "accuracy": accuracy(plain[-1]),
        "accuracy_dp": accuracy(private[-1]),
        "epsilon": private[-1].epsilon_spent,
        "delta": federation.DELTA,
        "epsilon_left": private[-1].epsilon_left,
        "noise_multiplier": private_run.privacy.release.noise_multiplier,
        "rounds": len(plain) + len(private),
        "nodes": federation.NUM_NODES,
        "refusals": sum(len(one.refusals) for one in (*plain, *private)),
        "rounds_s": sum(one.round_s for one in plain),
        "rounds_dp_s": sum(one.round_s for one in private),
        "total_s": None,
        "dataset_version": version,
        "start_version": start,
        "model_version": plain[-1].model_version,
        "model_version_dp": private[-1].model_version,
        "run": plain_run.name,
        "run_dp": private_run.name,
    }
    return figures, plain, private


def _rounds(mesh: Mesh, federation: str, spec: dict[str, Any]) -> tuple[list[pb.Round], pb.Run]:
    run = mesh.federated.start(federation, spec)
    events = show_rounds(mesh.federated.watch(run.name), run.spec.num_rounds)
    ended = mesh.federated.wait(run.name)
    return [one for one in last_rounds(events) if one.state == pb.ROUND_STATE_RELEASED], ended


def _print(figures: dict[str, Any], folder: Path) -> None:
    rows = [
        ("accuracy at the start", f"{figures['accuracy_start']:.2%}"),
        ("accuracy without privacy", f"{figures['accuracy']:.2%}"),
        ("accuracy with privacy", f"{figures['accuracy_dp']:.2%}"),
        ("epsilon at delta 1e-5, per image", f"{figures['epsilon']:.3f} spent, {figures['epsilon_left']:.3f} left"),
        ("updates refused", figures["refusals"]),
        ("rounds", f"{figures['rounds']} in {figures['rounds_s'] + figures['rounds_dp_s']:.1f} s"),
        ("whole demo", f"{figures['total_s']:.1f} s"),
    ]
    print_table(["figure", "value"], rows)
    console.print(f"\nreport.json and rounds.png are in {folder}/", highlight=False)
