"""Starts and stops the services of an embedded mesh.

A service that was killed stays down until the next call of `start_mesh`, which starts every service that is not
running. Automatic restarts are handled by `deepseek.embedded.supervisor`: it restarts services only while the program
that started them is using the mesh.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from common.errors import FailedPrecondition, MeshError, Unavailable
from common.fork_client import ForkedProcess, ForkServer, can_fork
from common.ports import free_ports as find_free_ports
from common.processes import Process, python, spawn, terminate
from deepseek.client import Mesh, MeshFile, ServiceAddress, StoreAddress
from deepseek.embedded import home as homes
from deepseek.embedded.health import ServiceStatus, health
from deepseek.embedded.home import Access
from deepseek.services import SERVICES

# The timeout is long because the inference service may need a few seconds per model to select the file to serve. A
# service that cannot start exits, so its failure is noticed at once.
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 20

_POLL_INTERVAL_S = 0.05


def start_mesh(
    home: Path,
    *,
    stay: bool,
    free_ports: bool = False,
    access: Access | None = None,
    forks: ForkServer | None = None,
    on_ready: Callable[[ServiceStatus], None] = lambda status: None,
) -> "EmbeddedMesh":
    """Starts the services that are not running yet, and waits until all are ready.

    Args:
        home: Directory for state, store, logs and the mesh file; created if missing.
        stay: Whether the services keep running after this process exits.
        free_ports: Whether to listen on randomly chosen free ports instead of the default ports.
        access: Certificates and a token. If None, new services use the credentials of the services that are already
            running; if no service is running, TLS is off.
        forks: Process that forks the services, with the same `stay`. If None, one is started when it is needed.
        on_ready: Called once per service, in the order of `SERVICES`, when the service is ready.

    Raises:
        FailedPrecondition: HOME_NOT_WRITABLE, or the reason that a service gives for not starting, e.g. PORT_TAKEN. If
            a service does not start, all services that this call started are stopped.
        Unavailable: NOT_READY if a service is not ready after `START_TIMEOUT_S`.
    """
    with homes.locked(home):
        running = homes.running(home)
        access = access or (homes.access_of(home) if running else None)
        ports = find_free_ports(len(SERVICES)) if free_ports else [service.port for service in SERVICES.values()]
        addresses = {name: f"127.0.0.1:{port}" for name, port in zip(SERVICES, ports, strict=True)}
        addresses |= {name: one.address for name, one in running.items() if name in SERVICES}
        mesh = EmbeddedMesh(home, addresses, running, stay=stay, access=access)
        try:
            mesh.start(*(name for name in SERVICES if name not in running), forks=forks)
            for name in SERVICES:
                on_ready(mesh.wait_until_ready(name))
        except BaseException:
            mesh.stop()
            raise
    return mesh


def stop_mesh(home: Path) -> list[str]:
    """Stops every service that is running in a home.

    Returns:
        Names of the stopped services.
    """
    if not home.exists():
        return []
    with homes.locked(home):
        running = homes.running(home)
        for service in running.values():
            homes.send_signal(service.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for name, service in running.items():
            while homes.is_service(service.pid, name, home):
                if time.monotonic() > deadline:
                    homes.send_signal(service.pid, signal.SIGKILL)
                time.sleep(_POLL_INTERVAL_S)
        homes.mesh_file(home).unlink(missing_ok=True)
    return list(running)


class EmbeddedMesh:
    """A mesh whose services are started, stopped and restarted by this process. Not thread-safe.

    Args:
        home: See `start_mesh`.
        addresses: `host:port` of every service, including services that are not running yet.
        running: Services that are already running. This object neither stops nor restarts them.
        stay: See `start_mesh`.
        access: See `start_mesh`.
    """

    def __init__(
        self,
        home: Path,
        addresses: Mapping[str, str],
        running: Mapping[str, ServiceAddress],
        *,
        stay: bool,
        access: Access | None = None,
    ) -> None:
        self._access = access
        self._home = home
        self._addresses = addresses
        self._running = running
        self._stay = stay
        self._processes: dict[str, Process] = {}

    @property
    def file(self) -> MeshFile:
        """The content of the mesh file: every service that has been started, even if it is not ready yet."""
        started = {name: ServiceAddress(self._addresses[name], one.pid) for name, one in self._processes.items()}
        known = {**self._running, **started}
        services = {name: known[name] for name in SERVICES if name in known}
        identity, token_file = ("", "")
        if self._access:
            identity, token_file = str(self._access.folder / "cli"), str(self._access.token_file)
        return MeshFile(services, StoreAddress.of_services(self._home), identity, token_file)

    def start(self, *names: str, forks: ForkServer | None = None) -> None:
        """Starts services, and returns before they are ready.

        Args:
            names: Names of the services.
            forks: See `start_mesh`.
        """
        logs = {name: homes.log_file(self._home, name) for name in names}
        for name in names:
            homes.address_file(self._home, name).unlink(missing_ok=True)
        if len(names) > 1 and can_fork():
            fresh = not all((self._home / "state" / f"{name}.db").exists() for name in names)

            def record(started: list[ForkedProcess]) -> None:
                self._processes |= zip(names, started, strict=True)
                self.file.write(homes.mesh_file(self._home))

            with forks or ForkServer(fresh=fresh, detach=self._stay) as server:
                server.start([(self._command(name), logs[name]) for name in names], record=record)
            return
        for name in names:
            self._processes[name] = spawn(
                self._command(name),
                env=None,
                log=logs[name],
                parent_pid=None if self._stay else os.getpid(),
                detach=self._stay,
            )
            # Written after each start, so that `stop_mesh` finds this service even if this process is killed next.
            self.file.write(homes.mesh_file(self._home))

    def _command(self, name: str) -> list[str]:
        flags = {"port": self._addresses[name].rpartition(":")[2], "home": str(self._home.absolute())}
        flags["address-file"] = str(homes.address_file(self._home, name))
        flags |= {callee: self._addresses[callee] for callee in SERVICES[name].calls}
        if self._access:
            flags["identity"] = str(self._access.folder / name)
        if not self._stay:
            flags["parent-pid"] = str(os.getpid())
        return python(f"services.{name}", *(text for flag, value in flags.items() for text in (f"--{flag}", value)))

    def wait_until_ready(self, name: str) -> ServiceStatus:
        """Waits until a service is ready.

        Raises:
            FailedPrecondition: The service exited. The error has the reason that the service logged, or SERVICE_ENDED
                if it logged none.
            Unavailable: NOT_READY if the service is not ready after `START_TIMEOUT_S`.
        """
        file = self.file
        address, pid = file.services[name].address, file.services[name].pid
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (homes.listens(self._home, name, pid) and health(name, file) == "serving"):
            if name in self._processes and (exit_status := self._processes[name].poll()) is not None:
                raise self.failure(name, exit_status)
            if name not in self._processes and not homes.is_service(pid, name, self._home):
                raise FailedPrecondition("SERVICE_ENDED", f"{name} exited before it was ready; try again")
            if time.monotonic() > deadline:
                log = homes.log_file(self._home, name)
                raise Unavailable("NOT_READY", f"{name} is not ready after {START_TIMEOUT_S} s; see {log}")
            time.sleep(_POLL_INTERVAL_S)
        return ServiceStatus(name, address, pid, "serving")

    def restart(self, name: str) -> None:
        """Restarts a service that has exited, at its previous address, and waits until it is ready.

        Raises:
            MeshError: Any error that `wait_until_ready` raises.
        """
        self._processes[name].wait()
        self.start(name)
        self.wait_until_ready(name)

    def ended(self) -> list[tuple[str, int]]:
        """Returns the name and exit status of each service that this object started and that has exited."""
        polled = [(name, process.poll()) for name, process in self._processes.items()]
        return [(name, exit_status) for name, exit_status in polled if exit_status is not None]

    def failure(self, name: str, exit_status: int) -> MeshError:
        """Returns an error that says why a service exited."""
        return homes.failure(self._home, name, exit_status)

    def connect(self) -> Mesh:
        """Returns a client of this mesh."""
        return Mesh(self.file)

    def stop(self) -> None:
        """Stops the services that this object started. Each service receives SIGTERM before its callees.

        If other services are running, they remain in the mesh file. Otherwise, the mesh file is deleted.
        """
        for name in reversed(list(self._processes)):
            homes.send_signal(self._processes[name].pid, signal.SIGTERM)
        for process in self._processes.values():
            terminate(process, grace_s=STOP_TIMEOUT_S)
        if self._processes:
            self._processes.clear()
            if self._running:
                self.file.write(homes.mesh_file(self._home))
            else:
                homes.mesh_file(self._home).unlink(missing_ok=True)
