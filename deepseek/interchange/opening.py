"""Chooses the source that reads a file, a folder or an S3 prefix."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import InvalidArgument
from deepseek.interchange import webdataset
from deepseek.interchange.folders import FolderSource
from deepseek.interchange.kinds import kind_of_name
from deepseek.interchange.parquet import ParquetSource
from deepseek.interchange.schema import fields_from_json
from deepseek.interchange.several import SeveralSources
from deepseek.interchange.source import Blob, Declared, Source
from deepseek.interchange.splits import split_of_name
from deepseek.interchange.tables import MAX_PASSAGE, CsvSource, JsonlSource, TextSource
from deepseek.interchange.tree import LocalTree, Tree

DESCRIPTION = "dataset.json"
"""File beside an export that holds the schema of the data set."""

_FILES: dict[str, Any] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz"), CsvSource),
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonl.gz"), JsonlSource),
    **dict.fromkeys((".parquet", ".pq"), ParquetSource),
    **dict.fromkeys(webdataset.EXTENSIONS, webdataset.WebDatasetSource),
}
_TABLES_OF_FOLDERS = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "samples.jsonl")
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Access:
    """How the files of a source are reached.

    Attributes:
        root: Folder outside which nothing is read; None means the folder of the source.
        follow_links: Whether links inside the root are followed.
        access_key_file: File with the access key of an S3 server.
        secret_key_file: File with the secret key of an S3 server.
    """

    root: Path | None = None
    follow_links: bool = False
    access_key_file: Path | None = None
    secret_key_file: Path | None = None


def open_source(place: str, access: Access | None = None, *, passage: int | None = None) -> Source:
    """Opens a source.

    Args:
        place: Path of a file or folder, or an S3 prefix, `s3+https://host/bucket/prefix`.
        access: How the files are reached.
        passage: Number of characters per sample of a text file, 1 to MAX_PASSAGE; None for one sample per line.

    Raises:
        InvalidArgument: BAD_SOURCE; BAD_VALUE if `passage` is out of range, or is set and the source is not a text
            file.
        FailedPrecondition: PACKAGE_MISSING, or STORE_KEYS_MISSING for an S3 prefix without keys.
    """
    access = access or Access()
    path = Path(place)
    if passage is not None and not 1 <= passage <= MAX_PASSAGE:
        message = f"a passage of {passage} characters is not possible; use 1 to {MAX_PASSAGE}"
        raise InvalidArgument("BAD_VALUE", message, field="passage")
    if passage is not None and (not path.is_file() or path.suffix != ".txt"):
        message = f"only a text file (.txt) can be cut into passages, but the source is {place}"
        raise InvalidArgument("BAD_VALUE", message, field="passage")
    if place.startswith(("s3+http://", "s3+https://")):
        from deepseek.interchange.s3_tree import S3Tree

        tree: Tree = S3Tree(place, access.access_key_file, access.secret_key_file)
        return _folder_source(tree, place)
    if path.is_dir():
        return _folder_source(LocalTree(path, root=access.root, follow_links=access.follow_links), place)
    if not path.is_file():
        message = f"there is no file or folder {place}; an S3 prefix begins with s3+https://"
        raise InvalidArgument("BAD_SOURCE", message, field="source")
    parent = LocalTree(path.parent, root=access.root, follow_links=access.follow_links)
    if path.suffix == ".txt":
        return TextSource(parent, path.name, split=split_of_name(path.name), passage=passage)
    kind = _kind(path.name)
    if kind is None:
        known = ", ".join((*_FILES, ".txt"))
        message = f"{place} has an unknown type; import a folder, or a file that ends with one of: {known}"
        raise InvalidArgument("BAD_SOURCE", message, field="source")
    source: Source = kind(parent, path.name, split=split_of_name(path.name))
    return source


def _folder_source(tree: Tree, place: str) -> Source:
    """Returns the source of a folder: its tables or archives if it holds no other samples, otherwise its files."""
    top = tree.list()
    names = {blob.name: blob for blob in top.files}
    declared = _declared(names[DESCRIPTION]) if DESCRIPTION in names else Declared()
    if table := next((name for name in _TABLES_OF_FOLDERS if name in names), ""):
        found: Source = _kind(table)(tree, table, declared=declared)
        return found
    contents = _Contents()
    contents.add(tree, "", _MAX_DEPTH)
    paths = contents.tables
    if not paths or contents.has_samples:
        return FolderSource(tree)
    if len(kinds := {_kind(path) for path in paths}) > 1:
        message = (
            f"{place} holds files of several formats, e.g. {paths[0]} and {paths[-1]}; import one format at a time"
        )
        raise InvalidArgument("BAD_SOURCE", message, field="source")
    if others := contents.others:
        more = f" and {len(others) - 1} more" * (len(others) > 1)
        declared = replace(
            declared,
            notices=(*declared.notices, f"only the tables are read, not the files beside them: {others[0]}{more}"),
        )
    (kind,) = kinds
    return SeveralSources({path: kind(tree, path, split=_split(path), declared=declared) for path in paths})


@dataclass
class _Contents:
    """The contents of a folder and of its subfolders.

    Attributes:
        tables: Paths of the tables and archives.
        others: Paths of files that are neither samples nor descriptions, e.g. programs.
        has_samples: Whether there are samples that are files of their own: media files, or texts in a folder that holds
            no table.
    """

    tables: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    has_samples: bool = False

    def add(self, tree: Tree, folder: str, depth: int) -> None:
        """Adds the files of a folder, and of the folders below it down to a depth."""
        if self.has_samples:  # then its other files do not matter
            return
        listing = tree.list(folder)
        names = [blob.name for blob in listing.files]
        tables = [name for name in names if _kind(name)]
        others = [name for name in names if not _kind(name) and not _is_description(name)]
        kinds = {kind_of_name(name) for name in others}
        self.has_samples = self.has_samples or bool(kinds & {"image", "audio"} or (not tables and "text" in kinds))
        self.tables += tables
        self.others += others
        for below in listing.folders if depth else ():
            self.add(tree, below, depth - 1)


def _kind(name: str) -> Any:
    lower = name.lower()
    return next((kind for ending, kind in _FILES.items() if lower.endswith(ending)), None)


def _is_description(name: str) -> bool:
    """Returns whether a file beside tables describes them, e.g. README.md, and holds no samples."""
    return name.rpartition("/")[2].lower().startswith(("readme", "license", "licence", "dataset"))


def _split(path: str) -> str:
    """Returns the split that a file name or, failing that, one of its folders states."""
    return next(filter(None, map(split_of_name, reversed(path.split("/")))), "")


def _declared(blob: Blob) -> Declared:
    """Reads the description that an export has written. A file of the same name from elsewhere is not used."""
    try:
        document = json.loads(blob.read())
    except (ValueError, RecursionError) as error:
        message = f"{blob.name} is not valid JSON: {str(error)[:200]}; repair or remove it"
        raise InvalidArgument("BAD_SCHEMA", message, field="schema") from error
    listed = document.get("fields") if isinstance(document, dict) else document
    if isinstance(listed, list) and all(isinstance(one, dict) and {"name", "type"} <= set(one) for one in listed):
        return Declared(fields=fields_from_json(document))
    return Declared(notices=(f"{blob.name} is not the description of an export, so it is not used",))
