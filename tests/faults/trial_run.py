"""One trial from beginning to end."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from common.errors import MeshError
from tests.faults.findings import Findings
from tests.faults.mesh import BrokenMesh
from tests.faults.strikes import Strikes
from tests.faults.trials import Trial
from tests.faults.workload import (
    PATIENCE_S,
    Client,
    Exporter,
    Loader,
    Marker,
    Reader,
    Registrar,
    Runner,
    Undisturbed,
    Uploader,
)

AFTERMATH_S = 1.0
"""How long clients go on after a repair if they wait for no job."""

HANGS_S = 2 * PATIENCE_S
"""After which a client will not end any more."""


def run_trial(mesh: BrokenMesh, trial: Trial, expected: Undisturbed) -> Findings:
    """Lets clients work, strikes, repairs, kills the service that was struck once more, and looks what is there.

    Args:
        mesh: Healthy, and healthy afterwards.
        trial: What to do.
        expected: What comes out of this mesh when nothing happens.
    """
    name, enough, findings = f"t{trial.number}", threading.Event(), Findings()
    blobs = [expected.checkpoint, *expected.model_files, expected.dataset_manifest]
    with ExitStack() as owned:
        clients: list[Client] = [
            Registrar(mesh, name, enough),
            Uploader(mesh, name, enough, expected.dataset_manifest),
            Loader(mesh, name, enough),
            Marker(mesh, name, enough),
            Reader(mesh, name, enough, blobs),
            Exporter(mesh, name, enough, expected, fresh=False),
        ]
        if trial.job == "run":
            clients.append(Runner(mesh, name, enough, expected))
        elif trial.job == "export":
            clients.append(Exporter(mesh, name, enough, expected, fresh=True))
        pool = owned.enter_context(ThreadPoolExecutor(len(clients)))
        # Before the pool's end, so that nobody waits for clients that are patient.
        for client in clients:
            owned.callback(client.close)
        owned.callback(enough.set)
        works = {client: pool.submit(client.work) for client in clients}
        if not trial.needs_workers:
            time.sleep(trial.after_s)
        Strikes(mesh, findings.restarts_s).strike(trial)
        if trial.job:
            wait([works[clients[-1]]], HANGS_S)
        else:
            time.sleep(AFTERMATH_S)
        enough.set()
        wait(works.values(), HANGS_S)
        for client, work in works.items():
            if error := _gave_up(work):
                findings.unfinished_jobs.append(f"the {type(client).__name__} gave up: {error}")
        mesh.services[trial.service].kill()
        findings.restarts_s.append(mesh.restart(trial.service))
        for client in clients:
            client.check()
            findings.add(client.findings)
    return findings


def _gave_up(work: "Future[None]") -> MeshError | str | None:
    if not work.done():
        return "it hangs"
    error = work.exception()
    if error is None or isinstance(error, MeshError):
        return error
    raise error
