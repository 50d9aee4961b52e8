"""The second pass over a source: converts its rows to samples, checks them or leaves this to ingest, and reports.

An upload sends every row, so that invalid rows end up in the quarantine of the version. Images are decoded only once,
by ingest. Only ingest therefore knows which samples are valid; `Import.settle` completes the report.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from common.cores import num_cores
from common.errors import InvalidArgument
from deepseek.data.key_set import KeySet
from deepseek.data.manifest import Field
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.data.statistics import Statistics, content_digest, summary_of
from deepseek.interchange.conversion import Converter
from deepseek.interchange.fills import fill_hints
from deepseek.interchange.inference import Plan, infer
from deepseek.interchange.schema import Wishes
from deepseek.interchange.source import Row, Source
from deepseek.interchange.splits import Splitter
from deepseek.interchange.summaries import Record, Summaries

if TYPE_CHECKING:
    from deepseek.client.datasets import Datasets
    from protos.job.v1 import job_pb2
    from protos.registry.v1 import registry_pb2

LARGE_SHARE = 0.1
"""If more than this share of the rows is invalid, the schema or the source may be wrong, so the user is warned."""

MAX_SPLITS = 256
"""Maximum number of splits of a data set."""

_BATCH_ROWS, _BATCH_BYTES = 16, 16 << 20
_Outcome = Sample | Rejected


@dataclass
class Report:
    """What an import has found so far.

    Attributes:
        statistics: Statistics of the valid samples.
        missing: Number of missing values by field.
        num_duplicates: Number of valid samples whose values equal those of an earlier sample.
        rejected: Number of rejected samples by reason.
    """

    statistics: Statistics
    missing: Counter[str]
    num_duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as a JSON object."""
        return {
            **self.statistics.to_json(),
            "missing": dict(self.missing),
            "num_duplicates": self.num_duplicates,
            "rejected": dict(self.rejected),
        }


class Import(Iterable[Sample]):
    """The rows of a source as samples.

    Each iteration reads the source from its start and begins a new report, so that an upload which was interrupted can
    resume. Sounds, and images if they are checked here, are decoded by several threads; the samples keep the order of
    the rows.

    Args:
        source: Source of the rows.
        wishes: The user's instructions.
        splitter: Assignment of rows to splits.
        is_strict: Whether the first invalid row is an error.
        on_read: Called for each row of the first pass, with the number of rows read so far.
        on_rejected: Called with the number of rejected samples so far (starting at 0 in each iteration) and the sample.

    Attributes:
        plan: Schema and notices of the import.
        report: Report of the current iteration.

    Raises:
        MeshError: An error of `infer`.
    """

    def __init__(
        self,
        source: Source,
        wishes: Wishes | None = None,
        splitter: Splitter | None = None,
        *,
        is_strict: bool = False,
        on_read: Callable[[int], None] = lambda number: None,
        on_rejected: Callable[[int, Rejected], None] = lambda number, rejected: None,
    ) -> None:
        self._source, self._wishes, self._splitter = source, wishes or Wishes(), splitter or Splitter()
        self._is_strict, self._on_rejected = is_strict, on_rejected
        self.plan: Plan = infer(source, self._wishes, split_column=self._splitter.column, on_row=on_read)
        self.report = self._new_report(Counter())
        self._problems = dict[str, str]()

    @property
    def fields(self) -> tuple[Field, ...]:
        """Schema of the samples."""
        return self.plan.fields

    def warning(self) -> str:
        """Returns a sentence about the most frequent reason if many rows are invalid; otherwise an empty text."""
        num_rejected = self.report.rejected.total()
        num_rows = self.report.statistics.num_samples + num_rejected
        if num_rejected <= LARGE_SHARE * num_rows:
            return ""
        ((reason, count),) = self.report.rejected.most_common(1)
        share = f"{num_rejected} of {num_rows} samples ({num_rejected / num_rows:.0%}) are kept aside"
        return f"{share}, {count} of them with the reason {reason}, e.g. {self._problems[reason]}"

    def notes(self) -> list[str]:
        """Returns sentences about missing values that keep samples aside, and about labels that `train` lacks."""
        averages = self.plan.num_rows is not None
        missing = fill_hints(self.fields, self.report.missing, self.plan.fills, averages=averages)
        return [*missing, *self.report.statistics.unbalanced_splits()]

    def upload(
        self,
        datasets: "Datasets",
        dataset: str,
        *,
        on_sample: Callable[[int], None] | None = None,
        on_change: "Callable[[job_pb2.Job], None] | None" = None,
    ) -> "registry_pb2.DatasetVersion":
        """Uploads the samples as a new version of a data set. The invalid ones become its quarantine.

        Args:
            datasets: Data sets of a mesh.
            dataset: Id of the data set, which need not exist.
            on_sample: Called for each row, with the number of rows sent so far.
            on_change: Called with each update of the commit job.

        Raises:
            InvalidArgument: The reason of the first invalid row if the import is strict; TOO_MANY_SPLITS;
                NO_VALID_SAMPLES.
            MeshError: An error of `Datasets.upload`.
        """
        if self._is_strict:
            return datasets.upload(dataset, self.fields, self, on_sample=on_sample, on_change=on_change)
        rows = _Unchecked(self)
        return datasets.upload(
            dataset,
            self.fields,
            rows,
            quarantine=True,
            on_quarantine=lambda rejected: self._settle(rows.summaries, rejected),
            on_sample=on_sample,
            on_change=on_change,
        )

    def __iter__(self) -> Iterator[Sample]:
        """Yields the valid samples, which are checked here as ingest would do.

        Raises:
            InvalidArgument: The reason of the first invalid row if the import is strict; TOO_MANY_SPLITS;
                NO_VALID_SAMPLES.
        """
        with KeySet() as keys, KeySet() as contents:
            for found in self.rows(decodes=True):
                if isinstance(found, Rejected):
                    self._reject(found)
                elif not keys.add(found.key):
                    message = f"{found.place}: the key {found.key[:80]!r} occurs a second time"
                    message += "; give each sample its own key"
                    self._reject(Rejected(found.key, found.place, "DUPLICATE_KEY", message))
                else:
                    self._count((summary_of(found, self.fields), content_digest(found, self.fields)), contents)
                    yield found
        self._check_not_empty()

    def _settle(self, records: Iterable[Record], rejected: Iterator[Rejected]) -> None:
        """Completes the report once ingest has checked all samples that were sent.

        Args:
            records: Records of the samples that were sent.
            rejected: The quarantine, in the order in which the samples were sent.
        """
        self.report = self._new_report(self.report.missing)
        next_rejected = next(rejected, None)
        with KeySet() as contents:
            for position, record in enumerate(records, 1):
                if next_rejected and next_rejected.position == position:
                    self._reject(next_rejected)
                    next_rejected = next(rejected, None)
                elif record:
                    self._count(record, contents)
        self._check_not_empty()

    def _count(self, record: Record, contents: KeySet) -> None:
        assert record is not None, "rejected samples are not counted"
        summary, digest = record
        self.report.statistics.add_summary(summary)
        self.report.num_duplicates += not contents.add(digest)

    def _check_not_empty(self) -> None:
        if not self.report.statistics.num_samples:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.report.rejected.most_common(3))
            first = next(iter(self._problems.values()), "")
            message = f"none of the rows is a valid sample ({reasons}); the first problem: {first}"
            raise InvalidArgument("NO_VALID_SAMPLES", message, field="source")

    def _new_report(self, missing: Counter[str]) -> Report:
        return Report(Statistics(self.plan.fields), missing)

    def _reject(self, rejected: Rejected) -> None:
        if self._is_strict:
            message = f"{rejected.message} (without --strict, such samples are kept aside)"
            raise InvalidArgument(rejected.reason, message, field="source")
        if not self.report.rejected:
            self._problems = {}
        self._problems.setdefault(rejected.reason, rejected.message)
        self._on_rejected(self.report.rejected.total(), rejected)
        self.report.rejected[rejected.reason] += 1

    def rows(self, *, decodes: bool) -> Iterator[_Outcome]:
        """Starts a new report, and yields each row as a sample or, if it is invalid, with the reason.

        Args:
            decodes: Whether to decode images to find damaged ones. Duplicate keys are not found in either case.

        Raises:
            InvalidArgument: TOO_MANY_SPLITS.
        """
        converter = Converter(self._source, self.plan, self._wishes, self._splitter)
        self.report = self._new_report(converter.missing)
        splits = set[str]()
        for found in self._checked(converter, decodes=decodes):
            if isinstance(found, Sample) and found.split not in splits:
                splits.add(found.split)
                if len(splits) > MAX_SPLITS:
                    message = f"there are more than {MAX_SPLITS} splits; choose another column with --split-column"
                    raise InvalidArgument("TOO_MANY_SPLITS", message, field="split_column")
            yield found

    def _checked(self, converter: Converter, *, decodes: bool) -> Iterator[_Outcome]:
        batches = self._batches(converter)
        if not any(one.type == "audio" or (one.type == "image" and decodes) for one in self.fields):
            for batch in batches:
                yield from _checked(converter, batch, decodes)
            return
        cores = num_cores()
        with ThreadPoolExecutor(cores, thread_name_prefix="check") as pool:
            pending: deque[Future[list[_Outcome]]] = deque()
            try:
                for batch in batches:
                    pending.append(pool.submit(_checked, converter, batch, decodes))
                    if len(pending) > 2 * cores:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _batches(self, converter: Converter) -> Iterator[list[_Outcome]]:
        """Yields samples that are not checked yet in small batches. Their files are read before the next row is."""
        batch, size = list[_Outcome](), 0
        for row in self._source.rows():
            outcome = converter.placed(row) if isinstance(row, Rejected) else _converted(converter, row)
            batch.append(outcome)
            for value in outcome.values.values():
                if isinstance(value, bytes):
                    size += len(value)
                elif isinstance(value, list):
                    size += sum(len(item) for item in value if isinstance(item, bytes))
            if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        yield batch


class _Unchecked(Iterable[_Outcome]):
    """All rows of an import, for ingest to check, and the summaries of the rows of the last iteration."""

    def __init__(self, found: Import) -> None:
        self._import = found
        self.summaries = Summaries()

    def __iter__(self) -> Iterator[_Outcome]:
        # The generator of an interrupted stream may still be running, so each one has summaries of its own.
        self.summaries = summaries = Summaries()
        fields = self._import.fields
        for found in self._import.rows(decodes=False):
            summaries.add(
                (summary_of(found, fields), content_digest(found, fields)) if isinstance(found, Sample) else None
            )
            yield found


def _converted(converter: Converter, row: Row) -> _Outcome:
    try:
        return converter.convert(row)
    except InvalidArgument as error:
        return converter.rejected(row, error)


def _checked(converter: Converter, batch: list[_Outcome], decodes: bool) -> list[_Outcome]:
    """Returns a batch in which a rejection replaces each invalid sample."""
    return [_valid(converter, one, decodes) if isinstance(one, Sample) else one for one in batch]


def _valid(converter: Converter, sample: Sample, decodes: bool) -> _Outcome:
    try:
        converter.check(sample, decodes=decodes)
    except InvalidArgument as error:
        rejected = Row(sample.key, sample.place, sample.split, sample.values).rejected(error)
        problem = error.message.removeprefix(f"samples[{sample.key}].")
        return replace(rejected, message=f"{sample.place}: {problem}")
    return sample
