"""Studies in SQLite and PostgreSQL: what is stored is what was answered, also with several tuners at once."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from common.database import Database, PageRequest, Repeatable
from common.errors import NotFound, Unavailable
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Outcome, TrialState
from services.tuner.studies import StudyService
from services.tuner.study import Measurement, TrialView
from tests.contracts.conftest import DatabasePlace
from tests.services.tuner.specs import SPEC

MIGRATIONS = Path(__file__).parents[2] / "services" / "tuner" / "migrations"
STUDY = "studies/s"

Open = Callable[[], StudyService]


@pytest.fixture
def opened(database_place: DatabasePlace) -> Iterator[Open]:
    """Opens one more tuner on the same database, as another process does; the first one creates a study."""
    with ExitStack() as owned:

        def open_one() -> StudyService:
            database = owned.enter_context(closing(database_place.open()))
            database.migrate(MIGRATIONS)
            return StudyService(database, 8)

        open_one().create("lab", "s", StudySpec.from_json(SPEC), Repeatable("CreateStudy"))
        yield open_one


def name(view: TrialView) -> str:
    return f"{STUDY}/trials/{view.trial.number}"


def run_trial(studies: StudyService, client_id: str, loss: float) -> TrialView:
    (view,) = studies.suggest("lab", STUDY, client_id, 1)
    studies.measure("lab", name(view), Measurement(1, {"loss": loss, "note": 2.0}))
    return studies.complete("lab", name(view), Outcome(TrialState.SUCCEEDED, {"loss": loss}))


def test_what_was_answered_is_stored(opened: Open) -> None:
    first, second = opened(), opened()
    answered = [run_trial(first, "worker", loss) for loss in (3.0, 1.0, math.inf, math.nan)]
    stored, token = second.trials("lab", STUDY, PageRequest(), state="")
    assert token == ""
    assert [view.trial for view in stored[:3]] == [view.trial for view in answered[:3]]
    assert stored[3].trial.failure_reason == "NOT_FINITE"
    assert math.isnan(stored[3].trial.metrics["loss"])
    (measurement,) = second.trial("lab", name(answered[0]))[0].measurements
    assert measurement.metrics == {"loss": 3.0, "note": 2.0}
    (measurement,) = second.trial("lab", name(answered[3]))[0].measurements
    assert math.isnan(measurement.metrics["loss"])
    assert [view.trial.number for view in second.optimal("lab", STUDY, PageRequest())[0]] == [2]
    study = second.get("lab", STUDY)
    assert (study.num_trials, study.num_ended) == (4, 4)
    assert study.sequence == answered[-1].trial.sequence


def test_several_tuners_change_one_study(opened: Open) -> None:
    tuners = [opened() for _ in range(3)]

    def work(index: int) -> list[int]:
        return [run_trial(tuners[(index + k) % 3], f"worker-{index}", float(k)).trial.number for k in range(6)]

    with ThreadPoolExecutor(3) as pool:
        numbers = [number for found in pool.map(work, range(3)) for number in found]
    assert sorted(numbers) == list(range(1, 19))
    assert opened().get("lab", STUDY).num_ended == 18


def test_a_change_that_cannot_be_stored_is_not_answered_and_leaves_nothing(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies, other = opened(), opened()
    run_trial(studies, "worker", 1.0)
    with monkeypatch.context() as patch:

        def refuse(*arguments: object) -> None:
            raise Unavailable("DATABASE_UNREACHABLE", "the disk is away")

        patch.setattr("services.tuner.rows.write_trials", refuse)
        with pytest.raises(Unavailable):
            studies.suggest("lab", STUDY, "worker", 1)
    assert other.get("lab", STUDY).num_trials == 1
    (found,), (expected,) = studies.suggest("lab", STUDY, "worker", 1), other.suggest("lab", STUDY, "worker", 1)
    assert found.trial == expected.trial
    assert found.trial.number == 2


def test_the_tenants_studies_are_apart(opened: Open) -> None:
    studies = opened()
    studies.create("other", "s", StudySpec.from_json(SPEC), Repeatable("CreateStudy"))
    run_trial(studies, "worker", 1.0)
    assert studies.trials("other", STUDY, PageRequest(), state="")[0] == []
    studies.delete("other", STUDY)
    assert studies.get("lab", STUDY).num_trials == 1


def test_a_database_that_was_opened_again_has_the_study(database_place: DatabasePlace, opened: Open) -> None:
    run_trial(opened(), "worker", 1.0)
    database: Database = database_place.open()
    with closing(database):
        again = StudyService(database, 1)
        assert run_trial(again, "worker", 2.0).trial.number == 2


def test_names_that_do_not_exist_displace_no_study_from_memory(opened: Open) -> None:
    studies = opened()
    run_trial(studies, "worker", 1.0)
    before = studies.live._copies["lab", "s"].study
    assert before is not None
    for number in range(20):
        with pytest.raises(NotFound):
            studies.optimal("lab", f"studies/none-{number}", PageRequest())
    assert studies.live._copies["lab", "s"].study is before
