"""The embedded mesh: every service as a process of its own on loopback, with a directory as store and SQLite as state.

It is the default for a laptop and for the demo. A mesh either belongs to the process that started it and dies with it
(`stay=False`), or stays until `stop_mesh` (`stay=True`); either way the mesh file tells clients where it is. A service
that was killed stays away until the mesh is started again, which starts what is missing; only whoever works with a mesh
that it started (`EmbeddedMesh.kept_up`) has such a service started again, a few times.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.channel import open_channel
from common.errors import FailedPrecondition, MeshError, Unavailable
from common.ports import free_ports as ports_nobody_has
from common.processes import python, spawn, terminate
from deepseek.client.mesh import Mesh, MeshFile, ServiceAddress, StoreAddress

PORTS = {"registry": 7001, "ingest": 7002, "trainer": 7003, "watermark": 7006, "inference": 8001}
"""The services of the embedded mesh, in the order they are listed, and the ports they take by default."""

GRPC_NAMES = {
    "registry": "deepseek.registry.v1.RegistryService",
    "ingest": "deepseek.ingest.v1.IngestService",
    "trainer": "deepseek.trainer.v1.TrainerService",
    "watermark": "deepseek.watermark.v1.WatermarkService",
    "inference": "inference.GRPCInferenceService",
}
"""The name by which each service answers health checks."""

# A service that fails ends. One that takes long may be choosing files for many models, a few seconds each.
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 20

MAX_RESTARTS = 3
"""How often a service that ended by itself is started again while a mesh is kept up."""

PATIENCE_S = 30.0
"""Seconds for which a client of a mesh that is kept up waits for a service that is being started again."""

_LOOK_S = 0.2


@dataclass(frozen=True)
class Access:
    """How services of a mesh know each other and their users.

    Attributes:
        folder: What `deepseek certs init` made.
        token_file: The user's token, which is sent with every call; it may be made later.
    """

    folder: Path
    token_file: Path


@dataclass(frozen=True)
class ServiceStatus:
    """What can be seen of a service from outside.

    Attributes:
        name: Its name, e.g. `registry`.
        address: `host:port` by the mesh file.
        pid: Its process.
        state: `serving`, `not ready` (alive, but something it needs is away) or `down`.
    """

    name: str
    address: str
    pid: int
    state: str


def status(file: MeshFile) -> list[ServiceStatus]:
    """Asks every service of a mesh for its health."""
    return [
        ServiceStatus(name, service.address, service.pid, _health(name, file))
        for name, service in file.services.items()
    ]


def start_mesh(
    home: Path,
    *,
    stay: bool,
    free_ports: bool = False,
    access: Access | None = None,
    on_ready: Callable[[ServiceStatus], None] = lambda status: None,
) -> "EmbeddedMesh":
    """Starts the services that are not running yet, and waits until all are ready.

    Args:
        home: Directory of state, store, logs and the mesh file; made if missing.
        stay: Leave the services running when this process ends.
        free_ports: Take any free ports instead of the default ones.
        access: Certificates and a token; None means those of the services that run, or no TLS if none runs.
        on_ready: Called for each service as soon as it is ready.

    Raises:
        FailedPrecondition: HOME_NOT_WRITABLE; PORT_TAKEN or the service's own reason if one does not start; those just
            started are stopped again.
    """
    with _locked(home):
        alive = _alive(home)
        access = access or (_access(home) if alive else None)
        ports = dict(zip(PORTS, ports_nobody_has(len(PORTS)), strict=True)) if free_ports else PORTS
        addresses = {
            name: alive[name].address if name in alive else f"127.0.0.1:{port}" for name, port in ports.items()
        }
        mesh = EmbeddedMesh(home, addresses, alive, stay=stay, access=access)
        try:
            for name in PORTS:
                if name not in alive:
                    mesh.start(name)
            for name in PORTS:
                on_ready(mesh.wait_until_ready(name))
        except BaseException:
            mesh.stop()
            raise
    return mesh


def stop_mesh(home: Path) -> list[str]:
    """Stops every service that runs in a home.

    Returns:
        Names of the services that were stopped.
    """
    if not home.exists():
        return []
    with _locked(home):
        alive = _alive(home)
        for service in alive.values():
            _signal(service.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for name, service in alive.items():
            while _is_service(service.pid, name, home):
                if time.monotonic() > deadline:
                    _signal(service.pid, signal.SIGKILL)
                time.sleep(0.05)
        (home / "mesh.json").unlink(missing_ok=True)
    return list(alive)


class EmbeddedMesh:
    """A mesh of which this process started some services. Not thread-safe; nothing else is called in `kept_up`.

    Args:
        home: As in `start_mesh`.
        addresses: `host:port` of every service, running or to be started.
        alive: The services that somebody else started; they are left alone.
        stay: As in `start_mesh`.
        access: As in `start_mesh`.
    """

    def __init__(
        self,
        home: Path,
        addresses: Mapping[str, str],
        alive: Mapping[str, ServiceAddress],
        *,
        stay: bool,
        access: Access | None = None,
    ) -> None:
        self._access = access
        self._home = home
        self._addresses = addresses
        self._alive = alive
        self._stay = stay
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def file(self) -> MeshFile:
        """What the mesh file says: every service that was started, ready or not."""
        started = {name: ServiceAddress(self._addresses[name], one.pid) for name, one in self._processes.items()}
        known = {**self._alive, **started}
        services = {name: known[name] for name in PORTS if name in known}
        identity, token_file = ("", "")
        if self._access:
            identity, token_file = str(self._access.folder / "cli"), str(self._access.token_file)
        return MeshFile(services, StoreAddress.of_services(self._home), identity, token_file)

    def start(self, name: str) -> None:
        """Starts one service; returns before it is ready."""
        argv = python(f"services.{name}", "--port", self._addresses[name].rpartition(":")[2])
        argv += ["--home", str(self._home.absolute()), "--address-file", str(self._address_file(name))]
        if name != "registry":
            argv += ["--registry", self._addresses["registry"]]
        if self._access:
            argv += ["--identity", str(self._access.folder / name)]
        if not self._stay:
            argv += ["--parent-pid", str(os.getpid())]
        self._address_file(name).unlink(missing_ok=True)
        self._processes[name] = spawn(
            argv, env=None, log=self._log(name), parent_pid=None if self._stay else os.getpid(), detach=self._stay
        )
        # At once, so that whoever comes after us can stop it even if we are killed now.
        self.file.write(self._home / "mesh.json")

    def wait_until_ready(self, name: str) -> ServiceStatus:
        """Waits until a service serves.

        Raises:
            FailedPrecondition: With the reason the service gave, if it ended.
            Unavailable: NOT_READY if it takes longer than `START_TIMEOUT_S`.
        """
        address, pid = self.file.services[name].address, self.file.services[name].pid
        deadline = time.monotonic() + START_TIMEOUT_S
        # The address file proves that it is this process that listens there, and not another mesh's.
        while not (_listens(self._home, name, pid) and self._health(name) == "serving"):
            if name in self._processes and (status := self._processes[name].poll()) is not None:
                raise self._failure(name, status)
            if name not in self._processes and not _is_service(pid, name, self._home):
                raise FailedPrecondition("SERVICE_ENDED", f"{name} ended while it was waited for; try again")
            if time.monotonic() > deadline:
                raise Unavailable("NOT_READY", f"{name} is not ready after {START_TIMEOUT_S} s; see {self._log(name)}")
            time.sleep(0.05)
        return ServiceStatus(name, address, pid, "serving")

    def restart(self, name: str) -> None:
        """Starts one of these services anew at its address, after it has ended, and waits until it is ready.

        Raises:
            MeshError: As `wait_until_ready`.
        """
        self._processes[name].wait()
        self.start(name)
        self.wait_until_ready(name)

    @contextmanager
    def kept_up(self, on_restart: Callable[[str], None]) -> Iterator[Mesh]:
        """A client of this mesh, and services that are started again when they end: a job would wait for them forever.

        Of use to the main thread alone: it is interrupted where it waits when a service ends for good, that is because
        somebody stopped it or it has been started again too often.

        Args:
            on_restart: Called from another thread with a sentence for people.

        Raises:
            FailedPrecondition: SERVICE_ENDED or the service's own reason: it ended for good.
        """
        main = threading.main_thread().ident
        assert main == threading.get_ident(), "only the main thread can be interrupted"
        # Not SIGINT itself: a shell lets what it starts in the background ignore that.
        on_interrupt = signal.getsignal(signal.SIGINT)
        before = signal.signal(signal.SIGUSR1, on_interrupt if callable(on_interrupt) else signal.default_int_handler)
        leaving = threading.Event()
        failures: list[MeshError] = []

        def watch() -> None:
            num_restarts: Counter[str] = Counter()
            while not leaving.wait(_LOOK_S):
                for name, status in self._ended():
                    num_restarts[name] += 1
                    if status == 0 or num_restarts[name] > MAX_RESTARTS:
                        failures.append(self._failure(name, status))
                        signal.pthread_kill(main, signal.SIGUSR1)
                        return
                    how = f"{_how(status)}; started again ({num_restarts[name]} of {MAX_RESTARTS} times)"
                    on_restart(f"{name} {how}")
                    self.start(name)

        watcher = threading.Thread(target=watch, name="mesh-upkeep", daemon=True)
        watcher.start()
        try:
            with Mesh(self.file, patience_s=PATIENCE_S) as client:
                yield client
        except KeyboardInterrupt:
            if failures:
                raise failures[0] from None
            raise
        finally:
            leaving.set()
            watcher.join()
            signal.signal(signal.SIGUSR1, before)

    def _ended(self) -> list[tuple[str, int]]:
        """Services of ours that run no more, with their exit status."""
        looked_at = [(name, process.poll()) for name, process in self._processes.items()]
        return [(name, status) for name, status in looked_at if status is not None]

    def connect(self) -> Mesh:
        """A client of this mesh."""
        return Mesh(self.file)

    def stop(self) -> None:
        """Stops what this object started, those that depend on others first; the mesh file keeps the rest."""
        for name in reversed(list(self._processes)):
            _signal(self._processes[name].pid, signal.SIGTERM)
        for process in self._processes.values():
            terminate(process, grace_s=STOP_TIMEOUT_S)
        if self._processes:
            self._processes.clear()
            if self._alive:
                self.file.write(self._home / "mesh.json")
            else:
                (self._home / "mesh.json").unlink(missing_ok=True)

    def _health(self, name: str) -> str:
        return _health(name, self.file)

    def _address_file(self, name: str) -> Path:
        return _address_file(self._home, name)

    def _log(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"

    def _failure(self, name: str, status: int) -> MeshError:
        # Whoever was stopped or killed says nothing of it in the log.
        said = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-20:] if status > 0 else []
        for line in reversed(said):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and "reason" in entry:
                return FailedPrecondition(entry["reason"], f"{name}: {entry['message']}", field=entry.get("field", ""))
        return FailedPrecondition("SERVICE_ENDED", f"{name} {_how(status)}; see {self._log(name)}")


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Makes a home's directories, and keeps others from starting or stopping services in it meanwhile.

    Raises:
        FailedPrecondition: HOME_NOT_WRITABLE.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in ("logs", "run"):
            (home / folder).mkdir(exist_ok=True)
        lock = (home / "run" / "lock").open("w")
    except OSError as error:
        message = f"{home} cannot be used: {error.strerror}; name another directory with DEEPSEEK_HOME"
        raise FailedPrecondition("HOME_NOT_WRITABLE", message, field="home") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _alive(home: Path) -> dict[str, ServiceAddress]:
    """The services that run in a home, by the mesh file and by what each wrote down itself."""
    found: dict[str, ServiceAddress] = {}
    with contextlib.suppress(MeshError):
        found.update(MeshFile.read(home / "mesh.json").services)
    for name in PORTS:
        with contextlib.suppress(OSError, ValueError, KeyError):
            written = json.loads(_address_file(home, name).read_text(encoding="utf-8"))
            if _is_service(written["pid"], name, home):
                found[name] = ServiceAddress(written["address"], written["pid"])
    return {name: one for name, one in found.items() if _is_service(one.pid, name, home)}


def _access(home: Path) -> Access | None:
    """What the services that run in a home know each other by."""
    with contextlib.suppress(MeshError):
        file = MeshFile.read(home / "mesh.json")
        return Access(Path(file.identity).parent, Path(file.token_file)) if file.identity else None
    return None


def _address_file(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.json"


def _listens(home: Path, name: str, pid: int) -> bool:
    try:
        written = json.loads(_address_file(home, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(written["pid"] == pid)


def _how(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
        os.kill(pid, number)


def _health(name: str, file: MeshFile) -> str:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    service = file.services[name]
    # Behind an edge, which lets nobody in without a token.
    token_file = Path(file.token_file) if file.token_file and not service.pid else None
    identity = Path(file.identity) if file.identity else None
    with open_channel(service.address, identity=identity, token_file=token_file, service=name, deadline_s=2) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=GRPC_NAMES[name])
            serving = (
                health_pb2_grpc.HealthStub(channel).Check(request).status == health_pb2.HealthCheckResponse.SERVING
            )
        except MeshError:
            return "down"
    return "serving" if serving else "not ready"


def _is_service(pid: int, name: str, home: Path) -> bool:
    """Whether a process is the service it was: its number may have gone to another since, and of another home."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    if state == "Z" or f"services.{name}".encode() not in command or b"--home" not in command:
        return False
    return Path(os.fsdecode(command[command.index(b"--home") + 1])).resolve() == home.resolve()
