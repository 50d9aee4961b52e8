"""Which file of a version this host serves: each candidate is opened here, compared with what is right, and timed.

A file may answer differently on another processor (docs/decisions/0012), so what was measured where a model was
exported decides nothing here. A version with probes is served from the fastest file that answers them here as it did
there. One without is served from the file that its manifest names, if other ways to compute it give the same answers to
requests that are made up; else from its float32 file, else more slowly.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument, MeshError
from deepseek.models.manifest import ModelFile, ModelManifest
from deepseek.models.probes import Array, Probes, disagreement
from deepseek.models.selection import Candidate, exported, select
from deepseek.processor import instruction_set, saturates
from services.inference.engine import Engine, Mode
from services.inference.made_up import make_requests
from services.inference.onnx_file import PRODUCTS, names_any

MAX_ERROR = 0.05
"""By how much of their spread a file's answers may differ between two ways to compute it: as much as by quantising.
Rounding gives up to 0.03, saturation several times as much (docs/decisions/0012)."""
MAX_TIMED_S = 1.0
"""How long a candidate is timed, seconds; half as long where its answers are compared."""
_MAX_ROUNDS = 300
_QUANTISED = (b"uantize", b"QLinear", b"Integer", b"QGemm", b"QAttention", b"QEmbed", b"QMoE", b"MatMulNBits")
"""Of these, one is part of the name of every operator that ONNX and ONNX Runtime have for such integers."""
_HOW: dict[Mode, str] = {"exact": "more precisely and more slowly", "plain": "without optimisations, more slowly"}
_NO_REQUEST = "it takes no request that was made up, or answers at random"
_NO_OTHER_WAY = "its QLinear operators may saturate on this processor, and cannot be computed in another way"

OpenEngine = Callable[[Path, Mode], Engine]
Fetch = Callable[[ModelFile], Path]
_Answers = list[list[tuple[str, Array]]]


@dataclass(frozen=True)
class Choice:
    """What is served.

    Attributes:
        file: The file.
        mode: How the runtime computes it.
        reason: Why, a sentence for people.
        engine: The file, opened.
    """

    file: ModelFile
    mode: Mode
    reason: str
    engine: Engine


@dataclass(frozen=True)
class _Trial:
    """A file, tried in a mode; what it answers wrongly, or cannot, is its problem."""

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
    """Chooses what to serve, and opens it.

    Args:
        manifest: The version.
        probes: Its probes, if it has some.
        fetch: Brings a file here.
        open_engine: Opens one.

    Raises:
        FailedPrecondition: NO_FILE_AGREES, with the figures; BAD_PROBES if the model does not take them; what
            `open_engine` raises if no file can be opened.
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
    except FailedPrecondition as error:  # it does not open here, or an operator does not run
        if error.reason == "BAD_PROBES":
            raise
        return _Trial(file, mode, None, problem=error.message, error=error)
    there = (measured and measured.disagreement) or 0.0
    figures = f"it differs from the float32 answers to {len(probes)} probes by {here:.2%} here, by {there:.2%} where "
    figures += f"it was exported{f' ({measured.instruction_set})' if measured and measured.instruction_set else ''}"
    tolerance = probes.tolerance(accepted)
    problem = "" if here - there <= tolerance else f"{figures}; {tolerance:.2%} more are accepted"
    return _Trial(file, mode, engine, figures, problem)


def _answers(engine: Engine, request: dict[str, Array], names: Sequence[str]) -> list[Array]:
    try:
        return [array for _, array in engine.run(request, names)]
    except InvalidArgument as error:
        message = f"the model's probes cannot be used: {error.message}; export the model anew"
        raise FailedPrecondition("BAD_PROBES", message) from error


def _latencies_ms(engines: Sequence[Engine], probes: Probes) -> list[float]:
    """Median time of a request for each engine; they take turns, so that what disturbs one disturbs all."""
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
    # The first runs find cold caches.
    return [1000 * median(taken[len(taken) // 10 :]) for taken in times]


def _choose_by_comparison(manifest: ModelManifest, fetch: Fetch, open_engine: OpenEngine) -> Choice:
    served, refused = manifest.file(), ""
    others = [file for file in manifest.candidates if file.variant == "fp32" and file.name != served.name]
    for file in (served, *others):
        path = fetch(file)
        fast = open_engine(path, "fast")
        if not names_any(path, _QUANTISED):
            return Choice(file, "fast", refused or "it holds no 8-bit operators", fast)
        slow = _opened(path, open_engine)
        errors = _errors(fast, slow, manifest)
        error = max(errors.values(), default=0.0)
        has_products = names_any(path, PRODUCTS)
        if error > MAX_ERROR:
            problem = f"computed in another way, its answers differ by {error:.2%} here; {MAX_ERROR:.0%} is accepted"
        elif not errors:
            problem = f"its answers could not be verified: {_NO_REQUEST}"
        elif has_products and "plain" not in slow and saturates(instruction_set()):
            problem = f"its answers could not be verified: {_NO_OTHER_WAY}"
        else:
            return Choice(file, "fast", refused or f"computed in another way, its answers differ by {error:.2%}", fast)
        refused = f"{file.variant} is not served: {problem}"
    if not errors and not saturates(instruction_set()):
        return Choice(file, "fast", problem, fast)
    # The last file, in the way that is right: one that adds more precisely, or else one without optimisations.
    misoptimised = errors.get("plain", 0.0) > MAX_ERROR >= errors.get("exact", 0.0)
    mode: Mode = "plain" if misoptimised or has_products or "exact" not in slow else "exact"
    if mode not in slow:
        raise FailedPrecondition(
            "NO_FILE_AGREES", f"no file of the version is right here: {refused}; use the QDQ format"
        )
    return Choice(file, mode, f"{problem}; it is computed {_HOW[mode]}", slow[mode])


def _opened(path: Path, open_engine: OpenEngine) -> dict[Mode, Engine]:
    """The file in the slower modes that the runtime can open it in: it cannot make every file more precise."""
    opened: dict[Mode, Engine] = {}
    modes: tuple[Mode, ...] = ("plain", "exact")
    for mode in modes:
        with suppress(FailedPrecondition):
            opened[mode] = open_engine(path, mode)
    return opened


def _errors(fast: Engine, slow: Mapping[Mode, Engine], manifest: ModelManifest) -> dict[Mode, float]:
    """How much the answers of slow modes differ; empty if nothing can be asked, or the answers are random.

    Without optimisations, floats between 8-bit tensors are multiplied exactly, and so are the operands of QLinear
    operators, but other integers as ever. The precise mode adds exactly all but QLinear operators' products, and has
    whatever errors optimisations have.
    """
    first = next(iter(slow.values()), None)
    if first is None:
        return {}
    for requests in make_requests(fast.inputs, manifest.inputs):
        expected: dict[Mode, _Answers] = {mode: [] for mode in slow}
        found: _Answers = []
        again: _Answers = []
        end = time.perf_counter() + MAX_TIMED_S / 2
        try:
            for request in requests:
                for mode, engine in slow.items():
                    expected[mode].append(engine.run(request))
                found.append(fast.run(request))
                again.append(first.run(request))
                if time.perf_counter() > end:
                    break
        except MeshError:
            continue
        if _greatest(next(iter(expected.values())), again) > MAX_ERROR:
            return {}
        return {mode: _greatest(answers, found) for mode, answers in expected.items()}
    return {}


def _greatest(expected: _Answers, found: _Answers) -> float:
    """Greatest disagreement of any output; where there are floats, they say more than what was made of them."""
    pairs = zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True)
    outputs = [(_flat(right), _flat(given)) for right, given in pairs]
    floats = [one for one in outputs if one[0].dtype.kind == "f"]
    return max((disagreement(right, given) for right, given in floats or outputs), default=0.0)


def _flat(answers: Sequence[tuple[str, Array]]) -> Array:
    return np.concatenate([array.reshape(-1) for _, array in answers])
