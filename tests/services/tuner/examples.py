"""Valid requests of the tuner."""

import itertools

from tests.harness.examples import Example, Examples, Existing
from tests.services.tuner.specs import BATCH, RUN_STUDY_SPEC, SPEC

_NUMBERS = itertools.count(1)


def new_study(existing: Existing) -> str:
    """Creates a study without trials."""
    return existing.mesh.studies.create(f"study-{next(_NUMBERS)}", SPEC).name


def stopped_study(existing: Existing) -> str:
    """Creates a study and stops it, so that watching it ends."""
    return existing.mesh.studies.stop(new_study(existing)).name


def new_trial(existing: Existing) -> str:
    """Suggests a trial to a new worker."""
    (trial,) = existing.mesh.studies.suggest(existing["study"], f"worker-{next(_NUMBERS)}")
    return trial.name


def first_job(existing: Existing) -> str:
    """The job of a study that is stopped immediately after it was started."""
    studies, study = existing.mesh.studies, f"run-{next(_NUMBERS)}"
    studies.create(study, RUN_STUDY_SPEC)
    # The data may be of any kind, so the spec is that of a run that the trainer has accepted.
    job = studies.run(study, existing.mesh.runs.get(existing["run"]).spec, fields=BATCH, max_trials=1).run.job
    studies.stop(study)
    return job.name


def requests(existing: Existing) -> dict[str, Example]:
    """An example for each method."""
    study, trial = existing["study"], existing["trial"]
    metrics = [{"name": "loss", "value": 0.5}]
    return {
        "CreateStudy": lambda number: [{"study_id": f"made-{next(_NUMBERS)}", "spec": SPEC} for _ in range(number)],
        "GetStudy": {"name": study},
        "ListStudies": {"page_size": 1},
        "StopStudy": lambda number: [{"name": new_study(existing)} for _ in range(number)],
        "RunStudy": {"name": existing["stopped_study"], "spec": {"budget": {"max_trials": 1, "max_seconds": 9.5}}},
        "DeleteStudy": lambda number: [{"name": new_study(existing)} for _ in range(number)],
        "WatchStudy": {"name": existing["stopped_study"], "after_sequence": 1},
        "SuggestTrials": {"parent": study, "client_id": "worker", "num_trials": 2},
        "GetTrial": {"name": trial},
        "ListTrials": {"parent": study, "page_size": 1, "state": "TRIAL_STATE_ACTIVE"},
        "ListOptimalTrials": {"parent": study, "page_size": 1},
        "AddMeasurement": {"name": trial, "measurement": {"step": 1, "metrics": metrics}},
        "CheckEarlyStopping": {"name": trial},
        "StopTrial": {"name": existing["stopping_trial"]},
        "CompleteTrial": {"name": existing["ending_trial"], "final": {"metrics": metrics}},
    }


EXAMPLES = Examples(
    requests=requests,
    makers={
        "study": new_study,
        "stopped_study": stopped_study,
        "trial": new_trial,
        "stopping_trial": new_trial,
        "ending_trial": new_trial,
        "tuner_job": first_job,
    },
    refused={"RunStudy": "STUDY_STOPPED"},
    names_nothing={"CreateStudy": "makes something of the caller's own"},
    lists=frozenset({"ListStudies"}),
    words=("tpe", "grid", "asha", "GOAL_MAXIMIZE"),
)
