"""Runs in view: logging from a program, labels, search, plots, comparison and deletion."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.cli import run_plot
from deepseek.client import Mesh, MeshFile, ServiceAddress, StoreAddress, connect
from deepseek.privacy.accounting import noise_multiplier_for
from tests.deepseek.cli.commands import assert_refused, deepseek, succeeded
from tests.deepseek.federated.pictures import CNN, FIELDS, samples
from tests.services.trainer.conftest import TrainerMesh, start_trainer
from tests.services.trainer.tasks import add_dataset, picture_spec

LIMITS = ("--epsilon", "8", "--delta", "1e-5")
PRIVATE = ("--clip-norm", "1", "--example-rate", "0.5", "--budget", "colours")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerMesh]:
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path_factory.mktemp("views") / "home", owned)
        services = {one.name: ServiceAddress(one.address, one.pid) for one in (mesh.registry, mesh.trainer)}
        MeshFile(services, StoreAddress.of_services(mesh.home), "", "").write(mesh.home / "mesh.json")
        yield mesh


@pytest.fixture(scope="module")
def home(processes: TrainerMesh) -> Path:
    return processes.home


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Mesh]:
    with connect(home / "mesh.json") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def logged(client: Mesh) -> list[str]:
    """Two runs of a program outside the mesh, which differ in their learning rate."""
    names = []
    for rate, best in ((0.1, 0.95), (0.01, 0.85)):
        parameters = {"optimizer": {"lr": rate}, "seed": 1}
        with client.runs.log(f"rate {rate}", parameters=parameters, tags={"study": "rates"}) as run:
            for step in range(0, 101, 10):
                run.log(step, loss=1 - best * step / 100, accuracy=best * step / 100)
        names.append(run.name)
    return names


@pytest.fixture(scope="module")
def private_spec(processes: TrainerMesh) -> Path:
    """A spec of pictures that a budget protects, without privacy."""
    store = processes.home / "store"
    version = add_dataset(
        processes.registry.channel(), store, "colours", FIELDS, samples(16, "train", 1) + samples(8, "test", 2)
    )
    path = processes.home.parent / "colours.json"
    path.write_text(json.dumps({**CNN, "dataset_version": version, "epochs": 2, "precision": "fp32"}))
    succeeded(processes.home, "privacy", "create", "colours", "datasets/colours", "--unit", "example", *LIMITS)
    return path


def documents(home: Path, *arguments: str) -> list[str]:
    done = deepseek(home, "run", "list", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [one["run"] for one in json.loads(done.stdout)]


def test_a_program_that_resumes_logs_no_figure_twice(client: Mesh) -> None:
    run = client.runs.log("interrupted")
    for step in (1, 2, 3):
        run.log(step, loss=1.0 / step)
    run.flush()
    with client.runs.log(resume=run.name) as resumed:
        for step in (2, 3, 4):
            resumed.log(step, loss=9.0 if step < 4 else 0.25)
        resumed.log(4, {"accuracy": 0.5})  # another figure of the same step
    events = client.runs.history(run.name)
    steps = [(event.step.step, event.step.metrics[0].value) for event in events if event.HasField("step")]
    assert steps == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25), (4, 0.5)]
    assert {one.name: one.value for one in client.runs.get(run.name).metrics} == {"loss": 0.25, "accuracy": 0.5}
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    with pytest.raises(FailedPrecondition, match="has ended"):
        client.runs.log(resume=run.name)
    with pytest.raises(InvalidArgument, match="must be at least 0"):
        resumed.log(-1, loss=0.0)
    with pytest.raises(InvalidArgument, match="must be a number"):
        resumed.log(5, loss="low")  # type: ignore[arg-type]


def test_a_program_that_fails_or_is_stopped_says_so(client: Mesh, home: Path) -> None:
    with pytest.raises(ZeroDivisionError), client.runs.log("broken") as run:
        run.log(1, loss=1 / 0)
    # `deepseek run stop` ends the program with its next figures.
    with pytest.raises(FailedPrecondition, match="CANCELLED"), client.runs.log("stopped") as stopped:
        assert deepseek(home, "run", "stop", stopped.name).returncode == 0
    shown = json.loads(deepseek(home, "run", "show", run.name, "--json").stdout)
    assert (shown["state"], shown["error"]["message"]) == ("failed", "ZeroDivisionError: division by zero")
    assert json.loads(deepseek(home, "run", "show", stopped.name, "--json").stdout)["state"] == "cancelled"


def test_runs_are_found_by_figures_parameters_and_tags(home: Path, logged: list[str]) -> None:
    high, low = logged
    tag = ("--tag", "study=rates")
    assert documents(home, *tag, "--where", "accuracy>0.9") == [high]
    assert documents(home, *tag, "--where", "optimizer.lr<=0.01") == [low]
    assert documents(home, *tag, "--where", "accuracy>0.8", "--where", "name=rate 0.1") == [high]
    assert documents(home, *tag, "--sort", "accuracy") == [high, low]
    assert documents(home, *tag, "--sort", "loss", "--ascending") == [high, low]
    assert documents(home, *tag, "--sort", "loss") == [low, high]
    assert documents(home, "--tag", "study=none") == []
    assert_refused(deepseek(home, "run", "list", "--where", "accuracy"), "INVALID_ARGUMENT: BAD_VALUE", "--where")
    assert_refused(deepseek(home, "run", "list", "--tag", "study"), "INVALID_ARGUMENT: BAD_VALUE", "--tag")


def test_labels_are_set_shown_and_removed(home: Path, logged: list[str]) -> None:
    run = logged[0].removeprefix("runs/")
    done = deepseek(home, "run", "tag", run, "owner=ana", "--note", "the better rate", "--json")
    document = json.loads(done.stdout)
    assert (document["tags"], document["note"]) == ({"owner": "ana", "study": "rates"}, "the better rate")
    out = deepseek(home, "run", "show", run).stdout
    assert "note: the better rate" in out
    assert "tags: owner=ana, study=rates" in out
    assert documents(home, "--where", "note~BETTER") == [logged[0]]
    assert documents(home, "--tag", "study=rates", "--where", "name~rate 0.0") == [logged[1]]
    document = json.loads(deepseek(home, "run", "tag", run, "--remove", "owner", "--note", "", "--json").stdout)
    assert (document["tags"], document["note"], document["name"]) == ({"study": "rates"}, "", "rate 0.1")
    assert_refused(deepseek(home, "run", "tag", run, "owner"), "INVALID_ARGUMENT: BAD_VALUE", "tag")
    assert_refused(deepseek(home, "run", "tag", "runs/none", "a=b"), "NOT_FOUND: RUN_NOT_FOUND", "name")


def test_runs_are_drawn_in_one_picture(home: Path, logged: list[str], tmp_path: Path) -> None:
    out = tmp_path / "curves" / "two.png"
    done = deepseek(home, "run", "plot", *logged, "--out", str(out), "--json")
    assert json.loads(done.stdout) == {"file": str(out), "runs": logged, "metrics": ["loss", "accuracy"]}
    with Image.open(out) as picture:
        assert picture.size[0] > 800
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50
    newest = json.loads(deepseek(home, "run", "plot", "--out", str(out), "--json").stdout)["runs"]
    assert newest == [json.loads(deepseek(home, "run", "list", "--json").stdout)[0]["run"]]
    one = deepseek(home, "run", "plot", logged[0], "--metric", "loss", "--out", str(tmp_path / "loss.svg"))
    assert one.returncode == 0, one.stderr
    wrong = deepseek(home, "run", "plot", logged[0], "--metric", "f1", "--out", str(out))
    assert_refused(wrong, "NOT_FOUND: NO_FIGURES", "--metric")
    assert "known: loss, accuracy" in wrong.stderr
    assert_refused(
        deepseek(home, "run", "plot", logged[0], "--out", "curves.gif"), "INVALID_ARGUMENT: BAD_VALUE", "--out"
    )


def test_a_plot_without_a_name_draws_the_newest_run_with_figures(
    home: Path, client: Mesh, logged: list[str], tmp_path: Path
) -> None:
    empty = client.runs.log("no figures yet")
    out = str(tmp_path / "curves.png")
    done = deepseek(home, "run", "plot", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{empty.name} is running and has no figures" in done.stderr
    assert "of runs/" in done.stdout
    assert empty.name not in done.stdout
    refused = deepseek(home, "run", "plot", empty.name, "--out", out)
    assert_refused(refused, "NOT_FOUND: NO_FIGURES", "RUN")
    assert f"no figures yet: {empty.name} is running; name a run that has figures" in " ".join(refused.stderr.split())


def test_without_runs_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there are no runs; start one with `deepseek train`"):
        run_plot.draw([], [], tmp_path / "curves.png")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FailedPrecondition, match="pip install matplotlib"):
        run_plot.check_drawable(Path("curves.png"))


def test_names_that_look_like_formulas_are_drawn_as_they_are(home: Path, client: Mesh, tmp_path: Path) -> None:
    with client.runs.log(r"_$\frac{1$") as run:
        run.log(1, {"$loss^": 0.5})
    done = deepseek(home, "run", "plot", run.name, "--out", str(tmp_path / "formula.svg"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "formula.svg").stat().st_size > 1000


def test_runs_are_compared_by_what_differs(home: Path, logged: list[str]) -> None:
    document = json.loads(deepseek(home, "run", "compare", *logged, "--json").stdout)
    assert document["differences"] == {"optimizer.lr": [0.1, 0.01]}
    assert document["figures"]["accuracy"] == [0.95, 0.85]
    out = deepseek(home, "run", "compare", *logged).stdout
    assert "rate 0.1" in out
    assert "seed" not in out
    assert_refused(deepseek(home, "run", "compare", logged[0]), "INVALID_ARGUMENT: BAD_VALUE", "RUN")


def test_a_run_is_deleted_unless_it_is_active(home: Path, client: Mesh, processes: TrainerMesh) -> None:
    with client.runs.log("unwanted") as run:
        run.log(1, loss=0.5)
        assert_refused(deepseek(home, "run", "delete", run.name), "FAILED_PRECONDITION: RUN_ACTIVE", "name")
    assert json.loads(deepseek(home, "run", "delete", run.name, "--json").stdout) == {"deleted": [run.name]}
    assert run.name not in documents(home, "--all")
    assert_refused(deepseek(home, "run", "show", run.name), "NOT_FOUND: RUN_NOT_FOUND", "name")
    assert_refused(deepseek(home, "run", "delete", run.name), "NOT_FOUND: RUN_NOT_FOUND", "name")


@pytest.mark.slow
def test_a_run_from_which_a_version_was_made_is_kept(home: Path, client: Mesh, processes: TrainerMesh) -> None:
    spec = picture_spec(processes.pictures, epochs=2, num_workers=1, precision="fp32")
    run = client.runs.wait(client.runs.submit(spec)[0].name)
    with pytest.raises(FailedPrecondition, match="executes"):
        client.runs.log(resume=run.name)
    version = client.runs.export(run.name, "kept")
    with pytest.raises(FailedPrecondition, match=f"{version.name} was made from {run.name}"):
        client.runs.delete(run.name)
    assert client.runs.get(run.name).best_epoch in (1, 2)
    again = client.runs.wait(client.runs.submit({**spec, "seed": 9})[0].name)
    client.runs.delete(again.name)
    assert again.name not in [one.name for one in client.runs.list()]


def test_a_run_that_aims_at_an_epsilon_shows_its_noise(home: Path, private_spec: Path) -> None:
    run = json.loads(succeeded(home, "train", str(private_spec), "--epsilon", "3", *PRIVATE, "--json"))["run"]
    found = json.loads(succeeded(home, "run", "show", run, "--json"))
    noise = noise_multiplier_for(3.0, 1e-5, 0.5, 4)
    assert found["privacy"]["budget"] == "budgets/colours"
    assert found["privacy"]["release"]["noise_multiplier"] == noise
    assert found["spec"]["privacy"]["target_epsilon"] == 3
    line = f"privacy: noise multiplier {noise:g} for epsilon 3, 4 steps, budgets/colours"
    assert line in succeeded(home, "run", "show", run).splitlines()


@pytest.mark.parametrize(
    ("options", "reason", "field"),
    [
        (("--epsilon", "0", *PRIVATE), "INVALID_ARGUMENT: BAD_EPSILON", "spec.privacy.target_epsilon (--epsilon)"),
        (("--noise", "0", *PRIVATE), "INVALID_ARGUMENT: BAD_NOISE", "spec.privacy.noise_multiplier (--noise)"),
        (
            ("--noise", "1", "--epsilon", "3", *PRIVATE),
            "INVALID_ARGUMENT: BAD_VALUE",
            "spec.privacy.noise_multiplier (--noise)",
        ),
        (PRIVATE, "INVALID_ARGUMENT: MISSING_FIELD", "spec.privacy.noise_multiplier (--noise)"),
        (("--epsilon", "3"), "INVALID_ARGUMENT: BAD_VALUE", "spec.privacy.clip_norm (--clip-norm)"),
        (("--noise", "1", *PRIVATE[:-1], "none"), "NOT_FOUND: BUDGET_NOT_FOUND", "spec.privacy.budget (--budget)"),
        (("--epsilon", "9", *PRIVATE), "FAILED_PRECONDITION: BUDGET_EXHAUSTED", "spec.privacy.budget (--budget)"),
    ],
)
def test_wrong_options_of_privacy_are_refused(
    home: Path, private_spec: Path, options: tuple[str, ...], reason: str, field: str
) -> None:
    assert_refused(deepseek(home, "train", str(private_spec), *options), reason, field)


def test_a_spec_that_is_derived_from_the_data_is_not_private(home: Path) -> None:
    done = deepseek(home, "train", "--task", "tabular", "--dataset", "colours", "--epsilon", "3", *PRIVATE)
    assert_refused(done, "INVALID_ARGUMENT: BAD_VALUE", "--task")
