"""The pictures of `benchmarks.ingest`, stored in the forms that the compared readers need.

The pictures are synthetic JPEG files of 96 x 96 pixels and about 3 kB: smooth colours with a little noise. A seed
determines them. Every reader decodes them with the same function.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.cores import num_cores
from common.errors import FailedPrecondition
from deepseek.client import Mesh
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from tests.harness.mesh import embedded_mesh

SEED = 20261129
SIZE = 96
LABELS = ("a", "b", "c", "d")
FILES_PER_SHARD = 500


@dataclass(frozen=True)
class Data:
    """A folder that holds the same pictures in several forms.

    Attributes:
        folder: The folder. It need not exist yet.
        num_images: Number of pictures.
    """

    folder: Path
    num_images: int

    @property
    def files(self) -> Path:
        """Folder with one folder per class."""
        return self.folder / "files"

    @property
    def litdata(self) -> Path:
        """Output folder of litdata's `optimize`."""
        return self.folder / "litdata"

    @property
    def webdataset(self) -> Path:
        """Folder of WebDataset archives."""
        return self.folder / "webdataset"

    @property
    def manifest(self) -> Path:
        """Manifest of our data set version."""
        return self.folder / "manifest.json"

    @property
    def cache(self) -> Path:
        """Shard cache that contains all shards of our data set version."""
        return self.folder / "cache"


def pictures(num_images: int) -> Iterator[tuple[str, bytes]]:
    """Yields the label and the JPEG file of each picture."""
    chance = np.random.default_rng(SEED)
    for _ in range(num_images):
        coarse = Image.fromarray(chance.integers(256, size=(8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
        noisy = smooth + chance.normal(0, 6, (SIZE, SIZE, 1))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        yield LABELS[chance.integers(len(LABELS))], file.getvalue()


def prepare(data: Data) -> None:
    """Writes the pictures in all forms."""
    write_files(data)
    write_litdata(data, data.litdata)
    _write_webdataset(data)
    write_shards(data)


def write_files(data: Data) -> None:
    """Writes the pictures as class folders."""
    for number, (label, content) in enumerate(pictures(data.num_images)):
        path = data.files / label / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_shards(data: Data) -> None:
    """Imports the files into a mesh, and copies our manifest and shards from there."""
    with embedded_mesh(data.folder / "home") as embedded, embedded.connect() as mesh:
        import_files(data, mesh)
        dataset = mesh.dataset("pictures", cache=data.cache)
        dataset.download()
        data.manifest.write_bytes(dataset.manifest.to_bytes())


def import_files(data: Data, mesh: Mesh) -> float:
    """Imports the files as `deepseek dataset import` does, and returns how many seconds this takes."""
    start = time.perf_counter()
    found = Import(open_source(str(data.files)))
    found.upload(mesh.datasets, "pictures")
    seconds = time.perf_counter() - start
    if found.report.statistics.num_samples != data.num_images:
        raise RuntimeError(f"{found.report.statistics.num_samples} of {data.num_images} pictures were imported")
    return seconds


def write_litdata(data: Data, folder: Path) -> float:
    """Writes the files with litdata's `optimize`, and returns how many seconds this takes."""
    litdata = peer("litdata")
    paths = [str(path) for path in sorted(data.files.rglob("*.jpg"))]
    start = time.perf_counter()
    litdata.optimize(
        _litdata_sample,
        paths,
        str(folder),
        chunk_bytes="32MB",
        num_workers=num_cores(),
        start_method="fork",
        verbose=False,
    )
    return time.perf_counter() - start


def _litdata_sample(path: str) -> dict[str, Any]:
    return {"image": Path(path).read_bytes(), "label": LABELS.index(Path(path).parent.name)}


def _write_webdataset(data: Data) -> None:
    data.webdataset.mkdir()
    with peer("webdataset").ShardWriter(f"{data.webdataset}/%04d.tar", maxcount=FILES_PER_SHARD, verbose=0) as writer:
        for path in sorted(data.files.rglob("*.jpg")):
            label = LABELS.index(path.parent.name)
            writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": label})


def peer(name: str) -> Any:
    """Imports a compared package.

    Raises:
        FailedPrecondition: PACKAGE_MISSING.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        message = f"the comparison needs the package {name}: pip install 'deepseek-mesh[peers]' ({error})"
        raise FailedPrecondition("PACKAGE_MISSING", message) from error
