"""`deepseek demo`: the main workflow on real data, from an empty folder to a served model and a report."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from common.environment import home
from deepseek import embedded
from deepseek.cli.interrupts import check_interrupted, when_interrupted
from deepseek.cli.mesh import FreePorts
from deepseek.cli.output import (
    AsJson,
    begin_step,
    console,
    error_console,
    make_folder,
    print_json,
    print_table,
    writing,
)
from deepseek.cli.precision import ratios_text
from deepseek.client import Mesh


def demo(
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again, even if an equal run exists.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the mesh running at the end.")] = False,
    free_ports: FreePorts = False,
    report: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("demo-report"),
    as_json: AsJson = False,
) -> None:
    """Upload 5,000 images with 48,248 questions; train, export and serve a model; and ask it every test question.

    The demo starts a mesh, and stops it at the end unless --keep is set. A second demo reuses the data and the trained
    model. If a demo is interrupted, the next one resumes from the last checkpoint.
    """
    start = time.perf_counter()
    make_folder(report, "--report")
    again = "stopped; the next `deepseek demo` reuses the data, the run and the model that are complete"
    with when_interrupted(again), running_mesh(keep=keep, free_ports=free_ports) as mesh:
        # Imported here, because every command would wait for NumPy if this module were imported at the top.
        from deepseek.cli.demo_steps import run

        figures = run(mesh, report, fresh=fresh)
    figures["total_s"] = time.perf_counter() - start
    from deepseek.demo.report import write_json

    with writing(report, "--report"):
        write_json(report / "report.json", figures)
    print_report(figures, report, keep=keep)
    if as_json:
        print_json(figures)


@contextmanager
def running_mesh(*, keep: bool, free_ports: bool) -> Iterator[Mesh]:
    """Starts the services that are not running yet, and yields a client of the mesh.

    If a service that this function started exits during the `with` block, it is restarted. After the block, all
    services that this function started are stopped, unless `keep` is True and the block succeeded.

    Raises:
        MeshError: Any error that `start_mesh` or `Supervisor.client` raises, e.g. because a service keeps exiting.
    """
    begin_step("mesh")
    mesh = embedded.start_mesh(
        home(),
        stay=keep,
        free_ports=free_ports,
        on_ready=_show_ready,
    )
    try:
        with embedded.Supervisor(mesh, _show_restart).client() as client:
            yield client
    except BaseException:
        mesh.stop()
        raise
    if not keep:
        mesh.stop()


def print_report(figures: dict[str, Any], folder: Path, *, keep: bool) -> None:
    """Prints the results in the report, and the commands to try next."""
    begin_step("report")
    yes_no = {True: "yes", False: "NO"}
    rows = [
        ("test accuracy", f"{figures['test_accuracy']:.4%} of {figures['num_questions']} questions"),
        ("served equals offline", yes_no[figures["served_equals_offline"]]),
        ("precision", f"{figures['precision']}{ratios_text(figures['precision_ratios'])}"),
        ("training", f"{figures['train_s']:.1f} s" + (" (an earlier run)" if figures["reused_run"] else "")),
        ("latency p50, p99", f"{figures['p50_ms']:.2f} ms, {figures['p99_ms']:.2f} ms"),
        ("int8 speed-up, loss", _int8_text(figures)),
        ("blobs added", figures["blobs_added"]),
        ("whole demo", f"{figures['total_s']:.1f} s"),
    ]
    print_table(["figure", "value"], rows)
    console.print(f"\nreport.json, learning-curve.png and contact-sheet.png are in {folder}/\n", highlight=False)
    image = folder / "example.png"
    program = "deepseek" if shutil.which("deepseek") else os.path.relpath(sys.argv[0])
    ask = f'{program} ask {image} "what shape is it?"'
    commands = [ask, f"{program} down"] if keep else [f"{program} up", ask]
    console.print("next:", *commands, sep="\n  ", highlight=False)


def _int8_text(figures: dict[str, Any]) -> str:
    if figures["int8_speedup"] is None:
        return "not measured"
    verdict = "served" if "int8" in figures["served_file"] else "not served"
    avx2 = figures["int8_loss_points_avx2"]
    elsewhere = "" if avx2 is None else f" ({avx2:.2f} on a processor with AVX2 only)"
    return f"{figures['int8_speedup']:.2f}x, {figures['int8_loss_points']:.2f} points{elsewhere}: {verdict}"


def _show_restart(text: str) -> None:
    error_console.print(text, style="bold yellow")


def _show_ready(service: embedded.ServiceStatus) -> None:
    check_interrupted()
    console.print(f"{service.name:<10} {service.address}  (process {service.pid})", highlight=False)
