"""Measures a mesh server's overhead per call, and its behaviour under load from many clients.

The overhead is the median time of a unary call to a mesh server (which adds authentication, authorization, limits and
telemetry with default sampling), divided by the median time of the same call to a bare synchronous grpcio server with
the same certificates, number of threads and servicer. The servers run in separate processes and are measured
alternately; the confidence interval is a bootstrap over rounds. In the load test, many clients call one registry over
TLS, each over its own connection. Memory means the registry's resident set; its growth during the first ten seconds of
the load is not counted.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
from rich.progress import track

from benchmarks.report import certify, provenance
from common.auth import Role
from common.auth.certificates import make_authority
from common.auth.identity import Identity
from common.auth.tokens import issue_token
from common.channel import open_channel
from common.config import ServiceSettings, load_settings
from common.database import Database
from common.errors import MeshError
from common.files import replace_file
from common.server import GrpcService, make_server
from common.server.telemetry import Telemetry
from common.service import Service
from deepseek.embedded import Access, EmbeddedMesh, start_mesh
from deepseek.services import SERVICES
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc

SERVICE = "deepseek.job.v1.JobService"
NUM_THREADS = 8
NUM_CLIENTS = 200
NUM_CLIENT_PROCESSES = 4
WARM_UP_S = 10
_spawn = multiprocessing.get_context("spawn")


class Echo(job_pb2_grpc.JobServiceServicer):
    """A servicer that does as little as possible."""

    def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
        return job_pb2.GetJobResponse(job=job_pb2.Job(name=request.name))


class EchoSettings(ServiceSettings):
    """Settings of the echo service."""

    service: ClassVar[Service] = Service("echo", SERVICE, 0, 0)


def serve_bare(folder: Path, home: Path, address: Connection) -> None:
    """Runs a plain grpcio server with the mesh's certificates."""
    server = grpc.server(futures.ThreadPoolExecutor(NUM_THREADS))
    job_pb2_grpc.add_JobServiceServicer_to_server(Echo(), server)
    identity = Identity(folder / "registry")
    key, certificate, ca = ((identity.folder / name).read_bytes() for name in ("key.pem", "cert.pem", "ca.pem"))
    credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    address.send(f"127.0.0.1:{port}")
    server.wait_for_termination()


def serve_ours(folder: Path, home: Path, address: Connection) -> None:
    """Runs a mesh server with full telemetry: metrics, audit log and a file of spans at the default sampling rate."""
    flags = ["--home", str(home), "--identity", str(folder / "registry"), "--unary-workers", str(NUM_THREADS)]
    settings = load_settings(EchoSettings, [*flags, "--metrics-port", "0", "--trace-file", str(home / "spans.jsonl")])
    database = Database(settings.state_url)
    database.migrate()
    hosted = GrpcService(SERVICE, job_pb2_grpc.add_JobServiceServicer_to_server, Echo())
    telemetry = Telemetry(settings, database)
    with make_server(settings, [hosted], ready=lambda: True, telemetry=telemetry) as server:
        address.send(server.address)
        threading.Event().wait()


@contextmanager
def serving(serve: Callable[[Path, Path, Connection], None], folder: Path, home: Path) -> Iterator[str]:
    """Runs a server in a separate process, and yields its address."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=serve, args=(folder, home, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def median_s(stub: job_pb2_grpc.JobServiceStub, num_calls: int) -> float:
    """Returns the median time of sequential calls, in seconds."""
    request, seconds = job_pb2.GetJobRequest(name="jobs/x"), np.empty(num_calls)
    for i in range(num_calls):
        start = time.perf_counter()
        stub.GetJob(request)
        seconds[i] = time.perf_counter() - start
    return float(np.median(seconds))


def overhead(folder: Path, home: Path, token_file: Path, *, num_rounds: int, num_calls: int) -> dict[str, Any]:
    """Returns the median ratio of the mesh server's time per call to the bare server's, and related statistics."""
    with (
        serving(serve_bare, folder, home) as bare_address,
        serving(serve_ours, folder, home) as our_address,
        grpc.secure_channel(bare_address, Identity(folder / "cli").channel_credentials()) as bare_channel,
        open_channel(our_address, identity=folder / "cli", token_file=token_file) as our_channel,
    ):
        bare, ours = job_pb2_grpc.JobServiceStub(bare_channel), job_pb2_grpc.JobServiceStub(our_channel)
        for stub in (bare, ours):
            median_s(stub, num_calls)
        rounds = np.array(
            [
                (median_s(bare, num_calls), median_s(ours, num_calls))
                for _ in track(range(num_rounds), "overhead", transient=True)
            ]
        )
    ratios = rounds[:, 1] / rounds[:, 0]
    medians = np.median(np.random.default_rng(0).choice(ratios, (10_000, num_rounds)), axis=1)
    return {
        "interceptor_overhead_ratio": float(np.median(ratios)),
        "interceptor_overhead_interval": [float(value) for value in np.percentile(medians, [2.5, 97.5])],
        "bare_p50_ms": float(np.median(rounds[:, 0]) * 1000),
        "mesh_p50_ms": float(np.median(rounds[:, 1]) * 1000),
        "rounds": num_rounds,
        "calls_per_round": num_calls,
    }


def call_for(address: str, folder: Path, token_file: Path, num_clients: int, seconds: float, pipe: Connection) -> None:
    """Runs the clients of one process for the given time, starting when a message arrives on the pipe.

    Each client has its own thread and connection."""
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def run() -> None:
        own: Counter[str] = Counter()
        with open_channel(address, identity=folder / "cli", token_file=token_file) as channel:
            stub = registry_pb2_grpc.RegistryServiceStub(channel)
            while time.monotonic() < end:
                try:
                    stub.GetDataset(registry_pb2.GetDatasetRequest(name="datasets/d"))
                except MeshError as error:
                    own[f"{error.code} {error.reason}"] += 1
                else:
                    own["OK"] += 1
        with lock:
            outcomes.update(own)

    threads = [threading.Thread(target=run) for _ in range(num_clients)]
    pipe.send("ready")
    pipe.recv()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(dict(outcomes))


def resident_bytes(pid: int) -> int:
    """Returns the size of the resident set of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def load(mesh: EmbeddedMesh, folder: Path, token_file: Path, *, num_clients: int, seconds: float) -> dict[str, Any]:
    """Calls the registry from many clients at once, and returns the results of this load test."""
    registry = mesh.file.services["registry"]
    with open_channel(registry.address, identity=folder / "cli", token_file=token_file) as channel:
        request = registry_pb2.CreateDatasetRequest(dataset_id="d")
        registry_pb2_grpc.RegistryServiceStub(channel).CreateDataset(request)
    pipes, processes = [], []
    for _ in range(NUM_CLIENT_PROCESSES):
        ours, theirs = _spawn.Pipe()
        arguments = (registry.address, folder, token_file, num_clients // NUM_CLIENT_PROCESSES, seconds, theirs)
        processes.append(_spawn.Process(target=call_for, args=arguments, daemon=True))
        pipes.append(ours)
        processes[-1].start()
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("begin")
    warm_up_s = min(WARM_UP_S, seconds / 2)
    memory = []
    for second in track(range(int(seconds)), "load", transient=True):
        time.sleep(1)
        if second >= warm_up_s:
            memory.append(resident_bytes(registry.pid))
    outcomes: Counter[str] = Counter()
    for pipe in pipes:
        outcomes.update(pipe.recv())
    for process in processes:
        process.join()
    calls = outcomes.pop("OK", 0)
    return {
        "concurrent_clients": num_clients,
        "load_s": seconds,
        "calls": calls,
        "errors": sum(outcomes.values()),
        "error_reasons": dict(outcomes),
        "memory_growth": memory[-1] / memory[0] - 1,
        "memory_bytes": memory[-1],
    }


def main() -> None:
    """Runs the benchmark, prints the result, and certifies it if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mesh", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="run for less than a minute; certify nothing")
    arguments = parser.parse_args()
    num_rounds, num_calls, seconds = (10, 500, 10.0) if arguments.quick else (60, 2000, 70.0)
    with tempfile.TemporaryDirectory() as scratch:
        folder, token_file = Path(scratch) / "identity", Path(scratch) / "token"
        make_authority(folder, list(SERVICES))
        # All clients use the token of one user, so the limits per user must not apply.
        token = issue_token(
            folder / "signing" / "key.pem", "bench", tenant="default", role=Role.ADMIN, lifetime_s=24 * 3600
        )
        replace_file(token_file, token.encode())
        figures = overhead(folder, Path(scratch) / "echo", token_file, num_rounds=num_rounds, num_calls=num_calls)
        mesh = start_mesh(Path(scratch) / "home", stay=False, free_ports=True, access=Access(folder, token_file))
        try:
            figures |= load(mesh, folder, token_file, num_clients=NUM_CLIENTS, seconds=seconds)
        finally:
            mesh.stop()
    result = {"n": num_rounds, **figures, **provenance()}
    certify("mesh", result, full=not arguments.quick)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<32} {value}")


if __name__ == "__main__":
    main()
