"""A private Docker engine with Compose, for machines that cannot reach a registry.

The engine keeps its data in a temporary folder and ends with the tests. Only the inputs of images (a root file system
and wheels) are kept below `~/.cache/deepseek-mesh`. Without an engine a test is skipped; in CI it fails.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.processes import spawn, terminate
from tests.harness.processes import wait_until
from tests.harness.servers import missing

ROOT = Path(__file__).resolve().parents[2]
BASE_IMAGE = "deepseek-mesh/base"
DOCKER = "/usr/bin/docker"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepseek-mesh"
_BUILD_S = 2700
_STOP_S = 60


@dataclass(frozen=True)
class Engine:
    """A running Docker engine.

    Attributes:
        environment: Environment in which `docker` and `docker compose` use it.
    """

    environment: Mapping[str, str]

    def docker(self, *arguments: str, timeout_s: float = 900) -> str:
        """Returns the output of a Docker command; if the command fails, so does the test, with the output."""
        done = subprocess.run(
            [DOCKER, *arguments],
            env=dict(self.environment),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def build(self) -> None:
        """Builds every image for which the Compose files of the environment have instructions."""
        services = json.loads(self.docker("compose", "--profile", "*", "config", "--format", "json"))["services"]
        # Once per image. The classic builder, which Compose would use here, does not support mounts.
        for image, build in {one["image"]: one["build"] for one in services.values() if "build" in one}.items():
            flags = [flag for name, value in build["args"].items() for flag in ("--build-arg", f"{name}={value}")]
            self.docker(
                "build", "--file", build["dockerfile"], "--tag", image, *flags, build["context"], timeout_s=_BUILD_S
            )


@contextlib.contextmanager
def docker_engine() -> Iterator[Engine]:
    """Runs an engine with the base image, or uses the one at DOCKER_HOST, which keeps its images."""
    with contextlib.ExitStack() as stack:
        new = tempfile.TemporaryDirectory(prefix="docker-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(new))
        host = os.environ.get("DOCKER_HOST") or stack.enter_context(_running(folder))
        plugin = folder / "config" / "cli-plugins" / "docker-compose"
        plugin.parent.mkdir(parents=True)
        plugin.symlink_to(Path(sys.executable).with_name("docker-compose"))
        ours = {"BASE_IMAGE": BASE_IMAGE, "DOCKER_BUILDKIT": "1", "DOCKER_HOST": host}
        engine = Engine({**os.environ, **ours, "DOCKER_CONFIG": str(folder / "config")})
        if not engine.docker("images", "--quiet", BASE_IMAGE):
            file = _CACHE / "base-bookworm.tar"
            subprocess.run([ROOT / "deploy/setup/base_image.sh", file], check=True)
            engine.docker("import", str(file), BASE_IMAGE)
        yield engine


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[str]:
    """Yields the address of a new engine."""
    if os.geteuid() != 0:
        missing("a Docker engine can be started by root only")
    for program in ("dockerd", "debootstrap", DOCKER):
        if shutil.which(program) is None:
            missing(f"no `{program}`; deploy/setup/debian.sh installs it")
    host = f"unix://{folder}/docker.sock"
    process = spawn([str(ROOT / "deploy/setup/dockerd.sh"), str(folder)], env=None, log=folder / "log")
    try:
        wait_until(lambda: _answers(host) or process.poll() is not None, "the Docker engine")
        assert process.poll() is None, (folder / "log").read_text()[-4000:]
        yield host
    finally:
        terminate(process, grace_s=_STOP_S)


def _answers(host: str) -> bool:
    return subprocess.run([DOCKER, "--host", host, "version"], capture_output=True, check=False).returncode == 0
