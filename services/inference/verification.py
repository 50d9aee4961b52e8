"""Chooses the file with which this host serves a version, by checking and timing the candidates on this host.

A model file may produce different outputs on another processor (docs/decisions/0012), so measurements from the
exporting host do not suffice. If a version has probes, this host serves the fastest file that is as accurate on the
probes here as it was on the exporting host. Without probes, it serves the manifest's default file if its outputs for
synthetic requests are the same in the runtime's fast mode and in slower ones. If they are not, the float32 file is
tried in the same way. If that fails too, the file compared last is served in a slower mode.
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
from services.inference.onnx_file import PRODUCTS, names_any
from services.inference.synthetic_requests import NUM_KINDS, Request, make_requests

MAX_ERROR = 0.05
"""Maximum accepted difference between the outputs of two modes, relative to the standard deviation of the outputs.
Quantization changes outputs by about this much; rounding changes them by up to 0.03, and saturation by several times
0.03 (docs/decisions/0012)."""
MAX_TIMED_S = 1.0
"""Maximum time spent timing a candidate, in seconds. Comparing its outputs may take up to half as long."""
_MAX_ROUNDS = 300
_QUANTIzED = (b"uantize", b"QLinear", b"Integer", b"QGemm", b"QAttention", b"QEmbed", b"QMoE", b"MatMulNBits")
"""Substrings of operator names: every quantized operator of ONNX and ONNX Runtime contains at least one of them."""
_HOW: dict[Mode, str] = {"exact": "more precisely and more slowly", "plain": "without optimizations, more slowly"}
_NO_REQUEST = "it accepts no synthetic request, or its answers are random"
_NO_OTHER_WAY = "its QLinear operators may saturate on this processor and cannot be computed in another way"

OpenEngine = Callable[[Path, Mode], Engine]
Fetch = Callable[[ModelFile], Path]
_Answers = list[list[tuple[str, Array]]]


@dataclass(frozen=True)
class FileChoice:
    """The chosen file.

    Attributes:
        file: The file, as listed in the manifest.
        mode: Mode of computation (see `engine.Mode`).
        reason: Reason why this file is served, for human readers.
        engine: Engine that has loaded the file.
    """

    file: ModelFile
    mode: Mode
    reason: str
    engine: Engine


@dataclass(frozen=True)
class _Trial:
    """A file tried in one mode. `problem` says how far its outputs are off, or why the file does not run."""

    file: ModelFile
    mode: Mode
    engine: Engine | None
    agreement: str = ""
    problem: str = ""
    error: MeshError | None = None

    @property
    def name(self) -> str:
        return self.file.variant if self.mode == "fast" else f"{self.file.variant} ({self.mode})"


def choose(manifest: ModelManifest, probes: Probes | None, fetch: Fetch, open_engine: OpenEngine) -> FileChoice:
    """Chooses the file to serve, and opens it.

    Args:
        manifest: Manifest of the version.
        probes: Probes of the version, if it has any.
        fetch: Function that downloads a file.
        open_engine: Function that opens a file.

    Raises:
        FailedPrecondition: NO_FILE_AGREES, with the differences found; BAD_PROBES if the model rejects its own probes;
            the error of `open_engine` if no file can be opened.
        MeshError: A file cannot be fetched, the device fails, or memory runs out.
    """
    if probes is None:
        return _choose_by_comparison(manifest, fetch, open_engine)
    return _choose_by_probes(manifest, probes, fetch, open_engine)


def _choose_by_probes(manifest: ModelManifest, probes: Probes, fetch: Fetch, open_engine: OpenEngine) -> FileChoice:
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
    return FileChoice(served.file, served.mode, reason, served.engine)


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
    except FailedPrecondition as error:  # the file cannot be opened on this host, or an operator fails
        if error.reason == "BAD_PROBES":
            raise
        return _Trial(file, mode, None, problem=error.message, error=error)
    there = (measured and measured.disagreement) or 0.0
    figures = f"it differs from the float32 answers to {len(probes)} probes by {here:.2%} here, by {there:.2%} where "
    figures += f"it was exported{f' ({measured.instruction_set})' if measured and measured.instruction_set else ''}"
    tolerance = probes.tolerance(accepted)
    problem = "" if here - there <= tolerance else f"{figures}; an increase of at most {tolerance:.2%} is accepted"
    return _Trial(file, mode, engine, figures, problem)


def _answers(engine: Engine, request: dict[str, Array], names: Sequence[str]) -> list[Array]:
    try:
        return [array for _, array in engine.run(request, names)]
    except InvalidArgument as error:
        message = f"the model does not accept its own probes: {error.message}; export the model again"
        raise FailedPrecondition("BAD_PROBES", message) from error


def _latencies_ms(engines: Sequence[Engine], probes: Probes) -> list[float]:
    """Returns each engine's median time per request. Engines take turns, so other load affects them all equally."""
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
    # The first runs are left out, because their caches are cold.
    return [1000 * median(taken[len(taken) // 10 :]) for taken in times]


def _choose_by_comparison(manifest: ModelManifest, fetch: Fetch, open_engine: OpenEngine) -> FileChoice:
    served, refused = manifest.file(), ""
    others = [file for file in manifest.candidates if file.variant == "fp32" and file.name != served.name]
    found: _Compared | None = None
    errors: list[MeshError] = []
    for file in (served, *others):
        try:
            path = fetch(file)
            fast = open_engine(path, "fast")
        except (FailedPrecondition, NotFound) as error:  # the file cannot be opened here, or the store has lost it
            errors.append(error)
            refused = f"{file.variant} is not served: {error.message}"
            continue
        if not names_any(path, _QUANTIzED):
            return FileChoice(file, "fast", refused or "it is not quantized, so its accuracy needs no check", fast)
        found = _compare(manifest, file, path, fast, open_engine)
        if not found.problem:
            return FileChoice(file, "fast", refused or found.agreement, fast)
        refused = f"{file.variant} is not served: {found.problem}"
    if not found:
        raise errors[0]
    return found.choose_mode(refused)


@dataclass(frozen=True)
class _Compared:
    """A file, and how much its outputs in the fast mode differ from those in each slower mode."""

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
        """The reason why the file must not be served in the fast mode; empty if it may be."""
        if not self.errors:
            return f"its answers could not be verified: {_NO_REQUEST}"
        if max(self.errors.values()) > MAX_ERROR:
            return f"{self.agreement} here; at most {MAX_ERROR:.0%} is accepted"
        if self.has_products and "plain" not in self.slow and saturates(instruction_set()):
            return f"its answers could not be verified: {_NO_OTHER_WAY}"
        return ""

    def choose_mode(self, refused: str) -> FileChoice:
        """Returns this file as the choice, in the mode that produces correct outputs.

        Raises:
            FailedPrecondition: NO_FILE_AGREES if the runtime cannot compute the file in that mode.
        """
        if not self.errors and not saturates(instruction_set()):
            return FileChoice(self.file, "fast", self.problem, self.fast)
        misoptimized = self.errors.get("plain", 0.0) > MAX_ERROR >= self.errors.get("exact", 0.0)
        mode: Mode = "plain" if misoptimized or self.has_products or "exact" not in self.slow else "exact"
        if mode not in self.slow:
            message = (
                f"no file of the version gives correct answers on this host: {refused}; "
                "quantize the model in the QDQ format"
            )
            raise FailedPrecondition("NO_FILE_AGREES", message)
        return FileChoice(self.file, mode, f"{self.problem}; it is therefore computed {_HOW[mode]}", self.slow[mode])


def _compare(manifest: ModelManifest, file: ModelFile, path: Path, fast: Engine, open_engine: OpenEngine) -> _Compared:
    """Compares the fast mode's outputs with those of both slow modes, because neither slow mode suits every file.

    The plain mode computes QDQ and QLinear operators in float32, but other integer operators saturate as in the fast
    mode. The exact mode saturates only in QLinear operators, but keeps the errors that optimizations cause.
    """
    slow: dict[Mode, Engine] = {}
    modes: tuple[Mode, ...] = ("plain", "exact")
    for mode in modes:
        with suppress(FailedPrecondition):  # the runtime cannot compute every file in every mode
            slow[mode] = open_engine(path, mode)
    errors = _errors(fast, slow, manifest)
    return _Compared(file, fast, slow, errors, names_any(path, PRODUCTS))


def _errors(fast: Engine, slow: dict[Mode, Engine], manifest: ModelManifest) -> dict[Mode, float]:
    """Returns how much the outputs of each slow mode differ from those of the fast mode.

    The result is empty if the model accepts no synthetic request, or if its outputs are random.

    If a slow mode fails on a request that succeeds in the fast mode, the slow mode is removed from `slow`.
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
    """Returns how much the outputs of each slow mode differ from those of the fast mode.

    Each kind of request is compared separately and the worst kind counts, because only some kinds may saturate.
    """
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
    """Returns the largest disagreement among the float outputs or, if there are none, among all outputs."""
    pairs = zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True)
    outputs = [(_flat(right), _flat(given)) for right, given in pairs]
    floats = [one for one in outputs if one[0].dtype.kind == "f"]
    return max((disagreement(right, given) for right, given in floats or outputs), default=0.0)


def _flat(answers: Sequence[tuple[str, Array]]) -> Array:
    return np.concatenate([array.reshape(-1) for _, array in answers])
