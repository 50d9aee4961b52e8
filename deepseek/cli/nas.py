"""`deepseek nas`: searches a network for a data set of images, and registers the best one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import FailedPrecondition
from deepseek.cli.completion import DATASET_VERSION, MODEL
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, console, make_folder, print_json, print_table, progress_bar, writing
from deepseek.client import connect
from deepseek.client.names import series_id, short_name
from deepseek.search.plots import check_output


def nas(
    dataset: Annotated[
        str, typer.Argument(help="The data set version, e.g. colours:3.", autocompletion=DATASET_VERSION)
    ],
    target: Annotated[str, typer.Option(help="Label to predict; may be left out if there is only one.")] = "",
    max_parameters: Annotated[int, typer.Option(min=0, help="Limit on the parameters; 0 for none.")] = 0,
    max_macs: Annotated[
        int, typer.Option(min=0, help="Limit on the multiply-accumulate operations per image; 0 for none.")
    ] = 0,
    pool: Annotated[int, typer.Option(min=2, help="Random networks that the zero-cost proxies rank.")] = 100,
    population: Annotated[int, typer.Option(min=2, help="Networks of a generation.")] = 8,
    generations: Annotated[int, typer.Option(min=1, help="Generations of NSGA-II.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a training of a finalist.")] = 10,
    finalists: Annotated[int, typer.Option(min=1, help="Networks that are trained for all epochs.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
    model: Annotated[
        str,
        typer.Option(help="Export the best network as a version of this model, with int8.", autocompletion=MODEL),
    ] = "",
    results: Annotated[
        Path | None,
        typer.Option(help="File that keeps the results of the search; default: DATASET.nas.jsonl.", dir_okay=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw accuracy against parameters and latency: .png, .svg, .pdf or .html.",
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search for a small and accurate network for images.

    Every training is a run on the mesh. After Ctrl-C, the same command continues the search.
    """
    model = series_id(model, "models", field="--model") if model else ""
    # Imported here, because they import torch and Optuna, and the command line starts without both.
    try:
        from deepseek.nas.conv_space import ConvSpace
        from deepseek.nas.halving import Rung
        from deepseek.nas.mesh_training import image_search
        from deepseek.nas.plots import plot_outcome
        from deepseek.nas.records import Records
        from deepseek.nas.search import Progress, Search
        from deepseek.nas.search_settings import Settings
        from deepseek.nas.trainings import Training
    except ImportError as error:
        message = f"a search requires Optuna and torch ({error}); install: pip install 'deepseek-mesh[search,training]'"
        raise FailedPrecondition("SEARCH_MISSING", message) from error

    if plot:
        check_output(plot, "--plot")
        make_folder(plot.parent, "--plot")
    settings = Settings(
        pool=pool,
        population=population,
        generations=generations,
        epochs=max(1, epochs // 5),
        rungs=(Rung(max(finalists, population // 2), max(1, epochs // 2)), Rung(finalists, epochs)),
        max_parameters=max_parameters,
        max_macs=max_macs,
        seed=seed,
    )
    again = "stopped searching; runs that were submitted continue, and the same command continues the search"
    with connect() as mesh, when_interrupted(again), progress_bar() as bar:
        task = bar.add_task("reading the data", total=None, note="")

        def show(progress: Progress) -> None:
            bar.update(task, description=progress.stage, completed=progress.done, total=progress.total)

        problem, training = image_search(mesh, dataset, target, space=ConvSpace())
        results = results or Path(f"{short_name(training.run_spec['dataset_version']).partition(':')[0]}.nas.jsonl")
        with writing(results, "--results"):
            outcome = Search(problem, settings, records=Records(results), on_progress=show).run()
        if plot:
            with writing(plot, "--plot"):
                plot_outcome(outcome, plot, title=short_name(training.run_spec["dataset_version"]))
        best = outcome.finalists[0]
        run = training.run(Training(best.spec, epochs, 0))
        result: dict[str, Any] = {
            "run": run,
            "trainings": outcome.num_trainings,
            "finalists": [
                {
                    "accuracy": one.accuracy,
                    "parameters": one.cost.parameters,
                    "macs": one.cost.macs,
                    "spec": one.spec.to_json(),
                }
                for one in outcome.finalists
            ],
        }
        if plot:
            result["plot"] = str(plot)
        if model:
            bar.update(task, description="exporting", completed=0, total=None)
            result["model_version"] = mesh.runs.export(run, model, int8=True).name
    if as_json:
        print_json(result)
        return
    rows = [(f"{one.accuracy:.4f}", f"{one.cost.parameters:,}", f"{one.cost.macs:,}") for one in outcome.finalists]
    print_table(["accuracy on validation data", "parameters", "operations"], rows)
    console.print(f"{outcome.num_trainings} trainings; the best one is {run}", highlight=False)
    if model:
        console.print(f"registered {result['model_version']}", highlight=False)
