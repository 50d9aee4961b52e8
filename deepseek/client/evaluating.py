"""Evaluates and compares model versions: predicts the samples of a data set, and judges the predictions.

A version that the mesh serves is run by the inference service, from the file that its users get. Any other version is
run in this process, so that an evaluation never changes what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import FailedPrecondition, InvalidArgument, MeshError
from deepseek.client import names
from deepseek.client.evaluation_data import Source, scorer, source
from deepseek.client.local_model import local_file
from deepseek.client.predictor import Prediction, Predictor
from deepseek.evaluation import paired
from deepseek.evaluation.results import MAIN_METRICS, Comparison, Disagreement, Evaluation, Judged, Skipped
from deepseek.evaluation.scorers import Row, Score, Worst

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh

NUM_WORST = 20
_MAX_SKIPPED = 1000
_ONE_IS_RIGHT = 1e6


def evaluate(
    mesh: Mesh,
    model: str,
    *,
    dataset: str = "",
    split: str = "",
    target: str = "",
    limit: int | None = None,
    num_worst: int = NUM_WORST,
    on_sample: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predicts the samples of a data set with a model version, and compares the predictions with the targets.

    A row that cannot be predicted or judged is skipped; the figures are those of the other rows.

    Args:
        mesh: The mesh.
        model: Name of the version, e.g. `digits`, `digits:3` or `digits@champion`.
        dataset: Name of the data set version; empty means the one on which the version was trained.
        split: Split of the data set; empty means `test` or, if there is none, the split on which the run was evaluated.
        target: Name of the field that the model predicts; empty means the one on which the version was trained.
        limit: Number of samples, spread evenly over the split; None means all.
        num_worst: Number of the worst predictions to keep; with labels, only mistakes.
        on_sample: Called after each sample with the number of samples so far and the number of all samples.

    Raises:
        NotFound: The version or the data set does not exist.
        InvalidArgument: BAD_NAME, UNKNOWN_SPLIT, UNKNOWN_FIELD, AMBIGUOUS_TARGET, MISSING_FIELD, BAD_VALUE.
        FailedPrecondition: UNSUITABLE_DATA if model and data set do not fit together; NO_PREDICTIONS if every row was
            skipped; ONNX_RUNTIME_MISSING if the version is not served and this process cannot run it.
    """
    predictor = _predictor(mesh, model)
    rows = source(mesh, predictor, dataset=dataset, split=split, target=target)
    judge, counter = _Judge(mesh, predictor, rows, num_worst), _Counter(on_sample)
    for batch in rows.rows(mesh, _checked(limit), counter, portion=predictor.portion):
        for row, score in zip(batch, judge.scores(batch), strict=True):
            if isinstance(score, MeshError):
                judge.skip(row, score)
            else:
                judge.add(score)
    return judge.result(counter.count)


def compare(
    mesh: Mesh,
    first: str,
    second: str,
    *,
    dataset: str = "",
    split: str = "",
    target: str = "",
    limit: int | None = None,
    num_worst: int = NUM_WORST,
    on_sample: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Evaluates two model versions on the samples that both can predict, and tests if they differ by more than chance.

    The arguments and errors are those of `evaluate`. By default, the data set, the split and the target are those of
    the first version.
    """
    predictors = [_predictor(mesh, first), _predictor(mesh, second)]
    if predictors[0].version == predictors[1].version:
        message = f"{first} and {second} are both {names.short_name(predictors[0].version)}; name two versions"
        raise InvalidArgument("BAD_VALUE", message, field="MODEL")
    rows = source(mesh, predictors[0], dataset=dataset, split=split, target=target)
    rows.check(predictors[1])
    one, other = (_Judge(mesh, predictor, rows, num_worst) for predictor in predictors)
    if one.scorer.task != other.scorer.task:
        message = f"the versions solve different tasks: {one.scorer.task} and {other.scorer.task}"
        raise FailedPrecondition("UNSUITABLE_DATA", message, field="MODEL")
    apart, counter = Worst(num_worst), _Counter(on_sample)
    portion = max(predictor.portion for predictor in predictors)
    for batch in rows.rows(mesh, _checked(limit), counter, portion=portion):
        for row, left, right in zip(batch, one.scores(batch), other.scores(batch), strict=True):
            error = next((each for each in (left, right) if isinstance(each, MeshError)), None)
            if error:  # a pair needs both predictions
                one.skip(row, error)
                other.skip(row, error)
                continue
            assert isinstance(left, Score)
            assert isinstance(right, Score)
            pair = Disagreement(one.add(left), other.add(right))
            if pair.first.predicted != pair.second.predicted or one.scorer.task == "language-model":
                apart.add(_distance(pair.first, pair.second), pair)
    return _comparison(one.result(counter.count), other.result(counter.count), one, apart.items())


def _predictor(mesh: Mesh, model: str) -> Predictor:
    version = mesh.models.version(names.version_name(model, "models", field="MODEL")).name
    return Predictor(mesh, version, unserved=True)


def _checked(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise InvalidArgument("BAD_VALUE", f"limit is {limit}; it must be at least 1", field="--limit")
    return limit


class _Counter:
    """Remembers how many samples were read."""

    def __init__(self, on_sample: Callable[[int, int], None] | None) -> None:
        self.count = 0
        self._on_sample = on_sample

    def __call__(self, count: int, total: int) -> None:
        self.count = count
        if self._on_sample:
            self._on_sample(count, total)


class _Judge:
    """Predicts rows with one version, and scores the predictions."""

    def __init__(self, mesh: Mesh, predictor: Predictor, rows: Source, num_worst: int) -> None:
        self.scorer = scorer(mesh, predictor, rows.target)
        self._predictor = predictor
        self._source = rows
        self._worst = Worst(num_worst)
        self._file = _file(mesh, predictor)
        self._skipped: list[Skipped] = []
        self._num_skipped = 0

    def scores(self, rows: Sequence[Row]) -> list[Score | MeshError]:
        """Returns the score of each row, or why there is none."""
        values = [self._values(row) for row in rows]
        found = self._predictor.predict(one for one in values if not isinstance(one, MeshError))
        return [
            one if isinstance(one, MeshError) else self._score(row, next(found))
            for row, one in zip(rows, values, strict=True)
        ]

    def _values(self, row: Row) -> Mapping[str, Any] | MeshError:
        try:
            return self._source.values(self._predictor, row)
        except MeshError as error:
            return error

    def _score(self, row: Row, prediction: Prediction) -> Score | MeshError:
        if prediction.error:
            return prediction.error
        is_text = self.scorer.task == "language-model"
        inputs = self._predictor.inputs.encode(row.values) if is_text else {}
        try:
            return self.scorer.judge(row, prediction.outputs, inputs)
        except InvalidArgument as error:
            return error

    def add(self, score: Score) -> Judged:
        """Adds a row to the figures."""
        self.scorer.add(score)
        self._worst.add(score.judged.severity, score.judged)
        return score.judged

    def skip(self, row: Row, error: MeshError) -> None:
        """Counts a row without a score."""
        self._num_skipped += 1
        if len(self._skipped) < _MAX_SKIPPED:
            self._skipped.append(Skipped(row.key, error.reason, error.message))

    def result(self, num_samples: int) -> Evaluation:
        """Returns the result of all rows.

        Raises:
            FailedPrecondition: NO_PREDICTIONS.
        """
        rows, found = self._source, self.scorer
        if not found.num_rows:
            where = f"the split {rows.split!r} of {names.short_name(rows.version)}"
            why = "".join(f"; {one.key}: {one.reason}: {one.message}" for one in self._skipped[:1])
            message = f"no row of {where} could be evaluated{why}; choose another one with --split or --dataset"
            raise FailedPrecondition("NO_PREDICTIONS", message, field="--split")
        return Evaluation(
            version=self._predictor.version,
            dataset_version=rows.version,
            split=rows.split,
            target=rows.target.name,
            task=found.task,
            runner=self._predictor.runner,
            file=self._file,
            num_samples=num_samples,
            num_rows=found.num_rows,
            num_skipped=self._num_skipped,
            skipped=tuple(self._skipped),
            metrics=found.metrics(),
            labels=tuple(found.labels),
            confusion=found.confusion(),
            classes=found.classes(),
            worst=tuple(self._worst.items()),
            outcomes=found.outcomes(),
        )


def _file(mesh: Mesh, predictor: Predictor) -> str:
    """Returns the name of the file that a predictor runs."""
    if predictor.runner == "local":
        return local_file(predictor.manifest).name
    model, number = predictor.version.split("/")[1::2]
    return mesh.inference.metadata(model, number).parameters["file"].string_param


def _distance(first: Judged, second: Judged) -> float:
    """Returns how much two versions differ on a row: most if exactly one of their predictions is right."""
    return abs(first.loss - second.loss) + (_ONE_IS_RIGHT if first.right != second.right else 0)


def _comparison(first: Evaluation, second: Evaluation, judge: _Judge, disagreements: Sequence[Any]) -> Comparison:
    metric = MAIN_METRICS[first.task]
    samples = first.outcomes.parts_of_samples(), second.outcomes.parts_of_samples()
    counts: dict[str, int] = {}
    p_value = None
    if first.task == "classification":
        pairs = list(zip(first.outcomes.right, second.outcomes.right, strict=True))
        cases = {"both": (True, True), "only_first": (True, False), "only_second": (False, True)}
        counts = {name: pairs.count(pair) for name, pair in {**cases, "neither": (False, False)}.items()}
        if len(samples[0]) == len(pairs):
            p_value = paired.mcnemar(counts["only_first"], counts["only_second"])
    differing = zip(first.outcomes.predicted, second.outcomes.predicted, strict=True)
    return Comparison(
        first=first,
        second=second,
        metric=metric,
        difference=second.metrics[metric] - first.metrics[metric],
        interval=paired.bootstrap(*samples, judge.scorer.main),
        counts=counts,
        p_value=p_value,
        num_disagreements=sum(one != other for one, other in differing),
        disagreements=disagreements,
    )
