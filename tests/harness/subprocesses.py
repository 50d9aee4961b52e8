"""Services as real processes: started, killed and started again on the same port and state."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import grpc

from common.channel import open_channel
from common.processes import python, safe_environment
from tests.harness.processes import wait_until


class ServiceSubprocess:
    """One service of a mesh under test; ends with the test run at the latest.

    Args:
        name: Name of the service.
        home: Its home directory, shared with the other services of its mesh.
        settings: Further settings, e.g. `registry`.
        prefix: Words that precede the command, e.g. `unshare`.
    """

    def __init__(
        self, name: str, home: Path, *, settings: dict[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.home = home
        self.address = ""
        self._settings = settings or {}
        self._prefix = list(prefix)
        self._address_file = home / f"{name}.address"
        self._log = home / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._channels: list[grpc.Channel] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Its log, across restarts."""
        return self._log.read_text(encoding="utf-8")

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self._address_file.unlink(missing_ok=True)
        own = {
            "home": str(self.home),
            "port": self.address.rpartition(":")[2] or "0",
            "address_file": str(self._address_file),
            "parent_pid": str(os.getpid()),
            **self._settings,
        }
        environment = {f"DEEPSEEK_{self.name}_{key}".upper(): value for key, value in own.items()}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *python(f"services.{self.name}")],
                env=safe_environment({**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **environment}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self._process
        wait_until(
            lambda: self._address_file.exists() or process.poll() is not None, f"{self.name} to answer", timeout_s=180
        )
        assert process.poll() is None, self.log
        self.address = json.loads(self._address_file.read_text(encoding="utf-8"))["address"]

    def kill(self) -> None:
        """Kills it, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Suspends it; its connections remain open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continues after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def channel(self, **options: float) -> grpc.Channel:
        """Opens a channel to it, which `close` closes."""
        channel = open_channel(self.address, **options)  # type: ignore[arg-type]
        self._channels.append(channel)
        return channel

    def plain_channel(self) -> grpc.Channel:
        """Opens a channel without our interceptors, so that calls can be cancelled; `close` closes it."""
        channel = grpc.insecure_channel(self.address)
        self._channels.append(channel)
        return channel

    def stop(self) -> None:
        """Terminates it if it runs; channels to it remain open."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                # Its fault handler then logs the stack of each thread.
                self._process.send_signal(signal.SIGABRT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(5)
                self.kill()
                raise AssertionError(f"{self.name} did not stop:\n{self.log[-20_000:]}") from None

    def close(self) -> None:
        """Closes the channels to it and terminates it."""
        for channel in self._channels:
            channel.close()
        self.stop()
