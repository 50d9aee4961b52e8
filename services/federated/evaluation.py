"""The evaluator of a run: a child process that keeps the model and the reference data in memory.

The process may end during any request, e.g. because an export needs too much memory. A request is therefore repeated
only a few times; after that, the model counts as one that cannot be evaluated.
"""

import itertools
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from common.artifacts import Artifact
from common.cores import num_cores
from common.errors import DeadlineExceeded, Internal, Unavailable
from common.processes import Process, python, spawn, terminate
from deepseek.federated.worker_link import call, raise_if_error

_logger = logging.getLogger(__name__)

_PASSING = ("STORE_UNREACHABLE", "DISK_UNAVAILABLE")
"""Reasons of failures after which the same request may succeed."""


class Evaluator:
    """Evaluates and exports models of one run. Starts its process on first use, and again after it has ended.

    If it is still running at the end of a `with` block, it is killed. Not thread-safe.

    Args:
        folder: Working folder of the process.
        recipe: JSON form of the run's recipe.
        job: How the process reads the reference data, see `deepseek.federated.evaluator`.
        max_runs: Number of runs among which the cores are divided.
        max_restarts: Number of times that the process is started again for one request.
        timeout_s: Seconds after which a request that has no answer counts as a crash.
        argv: The process; the one of `deepseek.federated.evaluator` by default.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        job: Mapping[str, Any],
        *,
        max_runs: int,
        max_restarts: int,
        timeout_s: float,
        argv: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._job = job
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, num_cores() // max_runs))}
        self._max_restarts = max_restarts
        self._timeout_s = timeout_s
        self._argv = argv or python("deepseek.federated.evaluator", str(folder))
        self._process: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def evaluate(self, model: bytes, check: Callable[[], None]) -> dict[str, float]:
        """Returns the metrics of a model on the reference data, without those that are not finite.

        Args:
            model: The model.
            check: Called often. It raises an error to end the wait.

        Raises:
            Unavailable: The store did not respond.
            Internal: EVALUATOR_CRASHED. The process ended, or did not answer, `max_restarts` + 1 times.
            MeshError: The model cannot be evaluated, or an error of `check`.
        """
        metrics = self._call("evaluate", model, check)["metrics"]
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def export(
        self, model: bytes, run: str, metrics: Mapping[str, float], check: Callable[[], None]
    ) -> tuple[Artifact, dict[str, float]]:
        """Stores the files of a model version; returns its manifest, and the metrics for the registry.

        Args:
            model: The model.
            run: Name of the run, which the manifest states.
            metrics: Metrics of the model.
            check: As in `evaluate`.

        Raises:
            MeshError: As in `evaluate`, or the model cannot be exported.
        """
        reply = self._call("export", model, check, export={"run": run, "metrics": dict(metrics)})
        return Artifact.from_json(reply["manifest"]), reply["metrics"]

    def _call(self, kind: str, model: bytes, check: Callable[[], None], **members: Any) -> dict[str, Any]:
        header = {"kind": kind, "recipe": self._recipe, "job": dict(self._job), **members}
        reply = self._answer(header, model, check)
        error = reply.get("error", {})
        if error.get("reason") in _PASSING:
            raise Unavailable(error["reason"], error["message"])
        raise_if_error(reply)
        return reply

    def _answer(self, header: Mapping[str, Any], model: bytes, check: Callable[[], None]) -> dict[str, Any]:
        for num_crashes in itertools.count(1):
            check()
            try:
                return call(self._folder, header, model, start=self._start, timeout_s=self._timeout_s, check=check)[0]
            except (Unavailable, DeadlineExceeded) as error:
                self._end()
                _logger.warning("the evaluator in %s crashed (%d times): %s", self._folder, num_crashes, error)
                if num_crashes > self._max_restarts:
                    message = f"the evaluator crashed {num_crashes} times; the last time, {error.message}"
                    raise Internal("EVALUATOR_CRASHED", message) from error
        raise AssertionError("the loop ends by a return or an error")

    def _start(self, log: Path) -> Process:
        self._end()
        self._process = spawn(self._argv, env=self._environment, log=log)
        return self._process

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            terminate(self._process, grace_s=0)
