"""Reads folders of files: class folders, folders per split, and plain folders.

In `<class>/…/<file>`, the first folder is the class. In `<split>/<class>/…/<file>`, the first folder is the split and
the second one the class. In `<split>/<file>`, the first folder is the split. A plain `<file>` has neither. Files of one
folder whose names differ only in the extension are one sample, e.g. an image with its caption.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from common.errors import InvalidArgument
from deepseek.data.rejected import Rejected
from deepseek.interchange.joined import LABEL, columns, file_kind
from deepseek.interchange.kinds import extension
from deepseek.interchange.source import Blob, Declared, Hint, Row, Source
from deepseek.interchange.splits import split_of_folder
from deepseek.interchange.tree import Tree


class FolderSource(Source):
    """A tree of folders with one or several files per sample.

    | layout | split | label |
    | --- | --- | --- |
    | `<class>/…/<file>` | | the class |
    | `<split>/<class>/…/<file>` | the split | the class |
    | `<split>/<file>` | the split | |
    | `<file>` | | |

    A split is a folder whose whole name states one, e.g. `train`. Beside other folders, a single one of these is a
    split only if it contains folders; otherwise it is a class.

    The key of a sample is the path of its first file, in the order image, audio, text, others.

    Args:
        tree: The files.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def declared(self) -> Declared:
        return Declared({LABEL: Hint("label")})

    def rows(self) -> Iterator[Row | Rejected]:
        top = self._tree.list()
        splits = {folder: split_of_folder(folder) for folder in top.folders}
        if self._has_splits(splits):
            yield from self._rows_of(top.files, top.rejected, "", "")
            for folder, split in splits.items():
                if split:
                    yield from self._part(folder, split)
                else:
                    message = f"the folder {folder} is no split, unlike the folders beside it; move or rename it"
                    yield Rejected("", folder, "BAD_SPLIT", message)
        else:
            yield from self._part("", "")

    def file(self, name: str) -> Blob:
        return self._tree.file(name)

    def _has_splits(self, splits: Mapping[str, str]) -> bool:
        """Returns whether the folders at the top are splits; a class, e.g. of vehicles, may be called `train` too."""
        stated = [folder for folder, split in splits.items() if split]
        if len(stated) in (0, len(splits)):
            return bool(stated)
        return len(stated) > 1 or bool(self._tree.list(stated[0]).folders)

    def _part(self, folder: str, split: str) -> Iterator[Row | Rejected]:
        """Yields the rows of one split: of its class folders or, if it has none, of its files."""
        listing = self._tree.list(folder)
        yield from self._rows_of(listing.files, listing.rejected, split, "")
        for class_folder in listing.folders:
            label = class_folder.rpartition("/")[2]
            for below in self._tree.walk(class_folder):
                yield from self._rows_of(below.files, below.rejected, split, label)

    def _rows_of(
        self, files: Sequence[Blob], rejected: Sequence[Rejected], split: str, label: str
    ) -> Iterator[Row | Rejected]:
        yield from (replace(one, split=split) for one in rejected)
        for group in _samples(files):
            key = group[0][1].name
            try:
                values = columns(group)
            except InvalidArgument as error:
                yield Row(key, key, split, dict(group)).rejected(error)
                continue
            yield Row(key, key, split, {**values, LABEL: label} if label else values)


def _samples(files: Sequence[Blob]) -> Iterator[list[tuple[str, Blob]]]:
    """Groups the files of one folder by stem, each with its extension. Two of the same type are never one sample."""
    groups: dict[str, list[tuple[str, Blob]]] = {}
    for blob in files:
        ending = extension(blob.name)
        stem = blob.name[: -len(ending) - 1] if ending else blob.name
        groups.setdefault(stem, []).append((ending, blob))
    for group in groups.values():
        if len(group) == 1:
            yield group
            continue
        kinds = [_rank(ending, blob) for ending, blob in group]
        if len(set(kinds)) == len(kinds):
            yield [file for _, file in sorted(zip(kinds, group, strict=True), key=lambda pair: pair[0])]
        else:
            yield from ([file] for file in group)


def _rank(ending: str, blob: Blob) -> str:
    """Returns a string that sorts images first, then audio, then text, and other files by extension."""
    if ending in ("json", "cls"):
        return f"3{ending}"
    try:
        return {"image": "0", "audio": "1", "text": "2"}[file_kind(blob)]
    except InvalidArgument:
        return f"4{ending}"
