"""One trial from beginning to end."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from common.errors import MeshError
from tests.faults.findings import Findings
from tests.faults.mesh import BrokenMesh
from tests.faults.strikes import Strikes
from tests.faults.trials import Trial
from tests.faults.workload import PATIENCE_S, Reader, Workload, WritingClient

AFTERMATH_S = 1.0
"""How long clients continue after a repair if there is no job to wait for."""

HANGS_S = 2 * PATIENCE_S
"""Time after which a client is taken to hang."""


def run_trial(mesh: BrokenMesh, trial: Trial, workloads: Sequence[Workload]) -> Findings:
    """Runs clients, causes and repairs a fault, kills the affected service again, and checks the data.

    Args:
        mesh: A healthy mesh; it is healthy again afterwards.
        trial: The trial to run.
        workloads: The workloads of all services on this mesh.
    """
    name, enough, findings = trial.id, threading.Event(), Findings()
    with ExitStack() as owned:
        clients = [client for workload in workloads for client in workload.clients(mesh, name, enough)]
        clients.append(Reader(mesh, name, enough, [read for workload in workloads for read in workload.reads()]))
        if trial.job:
            clients.append(_job_client(workloads, mesh, trial, enough))
        pool = owned.enter_context(ThreadPoolExecutor(len(clients)))
        # Registered after the pool, so that the clients are told to end before the pool waits for them.
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


def _job_client(
    workloads: Sequence[Workload], mesh: BrokenMesh, trial: Trial, enough: threading.Event
) -> WritingClient:
    found = (workload.job_client(trial.job, mesh, trial.id, enough) for workload in workloads)
    (client,) = (client for client in found if client)
    return client


def _gave_up(work: "Future[None]") -> MeshError | str | None:
    if not work.done():
        return "it hangs"
    error = work.exception()
    if error is None or isinstance(error, MeshError):
        return error
    raise error
