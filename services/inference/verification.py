"""Chooses which file of a version this host serves: opens each candidate here, checks its answers, and times it.

A file may answer differently on another processor (docs/decisions/0012), so measurements of the exporting host do not
decide. A version with probes is served from the fastest file that answers them here as it did there. A version without
probes is served from the file that its manifest names, if other modes of the runtime give the same answers to synthetic
requests; otherwise from its float32 file; otherwise in a slower mode.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound
from deepseek.models.manifest import ModelFile, ModelManifest
from deepseek.models.probes import Array, Probes, disagreement
from deepseek.models.selection import Candidate, exported, select
from deepseek.processor import instruction_set, saturates
from services.inference.engine import Engine, Mode
from services.inference.made_up import NUM_KINDS, Request, make_requests
from services.inference.onnx_file import PRODUCTS, names_any

MAX_ERROR = 0.05
"""Accepted difference between the answers of two modes, relative to their standard deviation: about that of quantising.
Rounding causes up to 0.03, saturation several times as much (docs/decisions/0012)."""
MAX_TIMED_S = 1.0
"""Seconds for which a candidate is timed; half of that for comparing its answers."""
_MAX_ROUNDS = 300
_QUANTISED = (b"uantize", b"QLinear", b"Integer", b"QGemm", b"QAttention", b"QEmbed", b"QMoE", b"MatMulNBits")
"""The name of every operator of ONNX and ONNX Runtime for such integers contains one of these."""
_HOW: dict[Mode, str] = {"exact": "more precisely and more slowly", "plain": "without optimisations, more slowly"}
_NO_REQUEST = "it accepts no synthetic request, or its answers are random"
_NO_OTHER_WAY = "its QLinear operators may saturate on this processor and cannot be computed in another way"

OpenEngine = Callable[[Path, Mode], Engine]
Fetch = Callable[[ModelFile], Path]
_Answers = list[list[tuple[str, Array]]]


@dataclass(frozen=True)
class Choice:
    """The file that is served.

    Attributes:
        file: The file.
        mode: How the runtime computes it.
        reason: Why this file, a sentence for people.
        engine: The opened file.
    """

    file: ModelFile
    mode: Mode
    reason: str
    engine: Engine


@dataclass(frozen=True)
class _Trial:
    """A file tried in a mode; `problem` says what it answers wrongly, or why it does not run."""

    file: ModelFile
    mode: Mode
    engine: Engine | None
    agreement: str = ""
    problem: str = ""
    error: MeshError | None = None

    @property
    def name(self) -> str:
        return self.file.variant if self.mode == "fast" else f"{self.file.variant} ({self.mode})"


def choose(manifest: ModelManifest, probes: Probes | None, fetch: Fetch, open_engine: OpenEngine) -> Choice:
    """Chooses the file to serve, and opens it.

    Args:
        manifest: Manifest of the version.
        probes: Its probes, if any.
        fetch: Downloads a file.
        open_engine: Opens a file.

    Raises:
        FailedPrecondition: NO_FILE_AGREES, with the figures; BAD_PROBES if the model refuses them; the error of
            `open_engine` if no file can be opened.
        MeshError: A file cannot be fetched, or the device or its memory fails.
    """
    if probes is None:
        return _choose_by_comparison(manifest, fetch, open_engine)
    return _choose_by_probes(manifest, probes, fetch, open_engine)


def _choose_by_probes(manifest: ModelManifest, probes: Probes, fetch: Fetch, open_engine: OpenEngine) -> Choice:
    files = sorted(manifest.candidates, key=lambda file: file.variant != "fp32")
    trials = [_try(manifest, file, "fast", probes, fetch, open_engine) for file in files]
    if all(trial.problem for trial in trials):
        modes: tuple[Mode, ...] = ("exact", "plain")
        slower = (_try(manifest, file, mode, probes, fetch, open_engine) for file in files for mode in modes)
        trials += islice((trial for trial in slower if not trial.problem), 1)
    errors = [trial.error for trial in trials if trial.error]
    if len(errors) == len(trials):
        raise errors[0]
    good = [trial.engine for trial in trials if trial.engine and not trial.problem]
    latencies = iter(_latencies_ms(good, probes))
    index, reason = select(
        [
            Candidate(trial.name, 0.0 if trial.problem else next(latencies), trial.agreement, trial.problem)
            for trial in trials
        ]
    )
    served = trials[index]
    assert served.engine is not None
    return Choice(served.file, served.mode, reason, served.engine)


def _try(
    manifest: ModelManifest, file: ModelFile, mode: Mode, probes: Probes, fetch: Fetch, open_engine: OpenEngine
) -> _Trial:
    measured, accepted = manifest.measurement(file.variant), manifest.accepted_loss or 0.0
    if measured and (problem := exported([measured], accepted)[0].problem):
        return _Trial(file, mode, None, problem=f"where it was exported, {problem}")
    path, classes = fetch(file), [output.name for output in manifest.outputs if output.labels]
    try:
        engine = open_engine(path, mode)
        here = probes.disagreement(lambda request: _answers(engine, request, list(probes.outputs)), classes)
    except FailedPrecondition as error:  # it cannot be opened here, or an operator does not run
        if error.reason == "BAD_PROBES":
            raise
        return _Trial(file, mode, None, problem=error.message, error=error)
    there = (measured and measured.disagreement) or 0.0
    figures = f"it differs from the float32 answers to {len(probes)} probes by {here:.2%} here, by {there:.2%} where "
    figures += f"it was exported{f' ({measured.instruction_set})' if measured and measured.instruction_set else ''}"
    tolerance = probes.tolerance(accepted)
    problem = "" if here - there <= tolerance else f"{figures}; at most {tolerance:.2%} more is accepted"
    return _Trial(file, mode, engine, figures, problem)


def _answers(engine: Engine, request: dict[str, Array], names: Sequence[str]) -> list[Array]:
    try:
        return [array for _, array in engine.run(request, names)]
    except InvalidArgument as error:
        message = f"the model's probes cannot be used: {error.message}; export the model again"
        raise FailedPrecondition("BAD_PROBES", message) from error


def _latencies_ms(engines: Sequence[Engine], probes: Probes) -> list[float]:
    """Median time of a request for each engine; they alternate, so that other load affects all alike."""
    if len(engines) < 2:
        return [0.0] * len(engines)
    times: list[list[float]] = [[] for _ in engines]
    requests = list(probes.requests())
    end = time.perf_counter() + MAX_TIMED_S * len(engines)
    for turn in range(_MAX_ROUNDS):
        for engine, taken in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine.run(requests[turn % len(requests)])
            taken.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    # Leaves out the first runs, whose caches are cold.
    return [1000 * median(taken[len(taken) // 10 :]) for taken in times]


def _choose_by_comparison(manifest: ModelManifest, fetch: Fetch, open_engine: OpenEngine) -> Choice:
    served, refused = manifest.file(), ""
    others = [file for file in manifest.candidates if file.variant == "fp32" and file.name != served.name]
    found: _Compared | None = None
    errors: list[MeshError] = []
    for file in (served, *others):
        try:
            path = fetch(file)
            fast = open_engine(path, "fast")
        except (FailedPrecondition, NotFound) as error:  # it does not open here, or the store has lost it
            errors.append(error)
            refused = f"{file.variant} is not served: {error.message}"
            continue
        if not names_any(path, _QUANTISED):
            return Choice(file, "fast", refused or "it has no 8-bit operators", fast)
        found = _compare(manifest, file, path, fast, open_engine)
        if not found.problem:
            return Choice(file, "fast", refused or found.agreement, fast)
        refused = f"{file.variant} is not served: {found.problem}"
    if not found:
        raise errors[0]
    return found.in_right_mode(refused)


@dataclass(frozen=True)
class _Compared:
    """A file, and how much its answers in the fast mode differ from those in slower modes."""

    file: ModelFile
    fast: Engine
    slow: Mapping[Mode, Engine]
    errors: Mapping[Mode, float]
    has_products: bool

    @property
    def agreement(self) -> str:
        return f"computed in another way, its answers differ by {max(self.errors.values()):.2%}"

    @property
    def problem(self) -> str:
        """Why it must not be served in the fast mode; empty if it may be."""
        if not self.errors:
            return f"its answers could not be verified: {_NO_REQUEST}"
        if max(self.errors.values()) > MAX_ERROR:
            return f"{self.agreement} here; {MAX_ERROR:.0%} is accepted"
        if self.has_products and "plain" not in self.slow and saturates(instruction_set()):
            return f"its answers could not be verified: {_NO_OTHER_WAY}"
        return ""

    def in_right_mode(self, refused: str) -> Choice:
        """Chooses the mode in which its answers are right.

        Raises:
            FailedPrecondition: NO_FILE_AGREES if the runtime cannot compute it in that mode.
        """
        if not self.errors and not saturates(instruction_set()):
            return Choice(self.file, "fast", self.problem, self.fast)
        misoptimised = self.errors.get("plain", 0.0) > MAX_ERROR >= self.errors.get("exact", 0.0)
        mode: Mode = "plain" if misoptimised or self.has_products or "exact" not in self.slow else "exact"
        if mode not in self.slow:
            message = (
                f"no file of the version gives right answers on this host: {refused}; quantise it to the QDQ format"
            )
            raise FailedPrecondition("NO_FILE_AGREES", message)
        return Choice(self.file, mode, f"{self.problem}; it is computed {_HOW[mode]}", self.slow[mode])


def _compare(manifest: ModelManifest, file: ModelFile, path: Path, fast: Engine, open_engine: OpenEngine) -> _Compared:
    """Compares the answers of the fast mode with those of both slow modes, because neither is right for every file.

    Without optimisations, QDQ and QLinear operators are computed in float32, but other integer operators saturate as
    before. The exact mode saturates only in QLinear operators, but keeps errors of the optimisations.
    """
    slow: dict[Mode, Engine] = {}
    modes: tuple[Mode, ...] = ("plain", "exact")
    for mode in modes:
        with suppress(FailedPrecondition):  # the runtime cannot compute every file in every mode
            slow[mode] = open_engine(path, mode)
    errors = _errors(fast, slow, manifest)
    return _Compared(file, fast, slow, errors, names_any(path, PRODUCTS))


def _errors(fast: Engine, slow: dict[Mode, Engine], manifest: ModelManifest) -> dict[Mode, float]:
    """Returns how much each slow mode's answers differ; nothing if no request is accepted or the answers are random.

    Modes that fail on a request that the fast one answers are removed from `slow`.
    """
    for requests in make_requests(fast.inputs, manifest.inputs):
        try:
            first = fast.run(requests[0])
        except MeshError:
            continue
        if _greatest([first], [fast.run(requests[0])]) > MAX_ERROR:
            return {}
        return _errors_of(requests, fast, slow)
    return {}


def _errors_of(requests: Sequence[Request], fast: Engine, slow: dict[Mode, Engine]) -> dict[Mode, float]:
    """Returns the largest error of any kind of request, because one kind may saturate where others do not."""
    found: list[_Answers] = [[] for _ in range(NUM_KINDS)]
    expected: dict[Mode, list[_Answers]] = {mode: [[] for _ in range(NUM_KINDS)] for mode in slow}
    end = time.perf_counter() + MAX_TIMED_S / 2
    for number, request in enumerate(requests):
        if number >= NUM_KINDS and time.perf_counter() > end:
            break
        try:
            answer = fast.run(request)
        except MeshError:  # e.g. a token that the model does not have
            continue
        found[number % NUM_KINDS].append(answer)
        for mode in list(slow):
            try:
                expected[mode][number % NUM_KINDS].append(slow[mode].run(request))
            except MeshError:
                del slow[mode], expected[mode]
    return {
        mode: max(_greatest(answers, given) for answers, given in zip(by_kind, found, strict=True) if answers)
        for mode, by_kind in expected.items()
    }


def _greatest(expected: _Answers, found: _Answers) -> float:
    """Greatest disagreement of any output; if there are float outputs, of these: others are derived from them."""
    pairs = zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True)
    outputs = [(_flat(right), _flat(given)) for right, given in pairs]
    floats = [one for one in outputs if one[0].dtype.kind == "f"]
    return max((disagreement(right, given) for right, given in floats or outputs), default=0.0)


def _flat(answers: Sequence[tuple[str, Array]]) -> Array:
    return np.concatenate([array.reshape(-1) for _, array in answers])
