"""A study and its measurements, as callers see them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from common.jobs import Job
from deepseek.search.study_run import StudyRunSpec
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Trial


@dataclass(frozen=True)
class StudyRunView:
    """How RunStudy runs a study. The proto message `deepseek.tuner.v1.StudyRun` documents most of the attributes.

    Attributes:
        start_sequence: Sequence number of the study when the job was submitted.
    """

    spec: StudyRunSpec
    job: Job
    end_reason: str
    num_trials: int
    num_epochs: int
    seconds: float
    start_sequence: int


@dataclass(frozen=True)
class StudyView:
    """A study. The proto message `deepseek.tuner.v1.Study` documents the attributes.

    Attributes:
        study_id: Last part of the resource name.
        uid: Differs between studies that had the same id one after the other.
    """

    study_id: str
    uid: str
    spec: StudySpec
    stopped: bool
    num_trials: int
    num_ended: int
    create_us: int
    sequence: int
    run: StudyRunView | None = None


@dataclass(frozen=True)
class Measurement:
    """A measurement of a trial. The proto message `deepseek.tuner.v1.Measurement` documents the attributes."""

    step: int
    metrics: Mapping[str, float]
    create_us: int = 0

    def has(self, metrics: Mapping[str, float]) -> bool:
        """Returns whether these are the metrics of the measurement. NaN equals NaN."""
        one, other = (json.dumps(dict(each), sort_keys=True) for each in (self.metrics, metrics))
        return one == other


@dataclass(frozen=True)
class TrialView:
    """A trial of a study.

    Attributes:
        study_id: Id of the study.
        trial: The trial.
        measurements: Measurements by step, if they were requested.
    """

    study_id: str
    trial: Trial
    measurements: tuple[Measurement, ...] = ()
