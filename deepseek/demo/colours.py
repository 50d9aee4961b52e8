"""The data of the federated demo: easy-VQA's images with the colour of their shape, divided among several nodes.

The nodes' shares differ: for each colour, the shares are drawn from a Dirichlet distribution (Hsu et al. 2019,
arXiv:1909.06335), so some nodes have hardly any images of a colour. The coordinator's own data is a split `test` and a
small split `train`, which no node has.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SEED = 20261130
_CONCENTRATION = 1.0
"""Parameter of the Dirichlet distribution. With a small value, most images of a node have one of a few colours."""
_NUM_OWN = 80
"""Number of training images that the coordinator keeps for itself."""


def write(folder: Path, num_nodes: int) -> tuple[Path, Sequence[Path]]:
    """Writes the images as class folders.

    Args:
        folder: New folder.
        num_nodes: Number of nodes.

    Returns:
        The coordinator's folder, with the splits `train` and `test`, and a folder per node, with the split `train`.
    """
    import easy_vqa

    train = _by_colour(easy_vqa.get_train_image_paths(), easy_vqa.get_train_questions())
    test = _by_colour(easy_vqa.get_test_image_paths(), easy_vqa.get_test_questions())
    chance = np.random.default_rng(SEED)
    own, nodes = folder / "coordinator", [folder / f"node-{number}" for number in range(1, num_nodes + 1)]
    for colour in COLOURS:
        paths = [train[colour][i] for i in chance.permutation(len(train[colour]))]
        num_own = _NUM_OWN // len(COLOURS)
        _link(own / "train" / colour, paths[:num_own])
        _link(own / "test" / colour, test[colour])
        shares = chance.dirichlet([_CONCENTRATION] * num_nodes)
        ends = np.rint(np.cumsum(shares) * (len(paths) - num_own)).astype(int) + num_own
        for node, start, end in zip(nodes, [num_own, *ends[:-1]], ends, strict=True):
            _link(node / "train" / colour, paths[start:end])
    return own, nodes


def _by_colour(paths: Mapping[int, str], questions: tuple[Sequence[str], ...]) -> dict[str, list[Path]]:
    """Returns the images whose colour is the answer to one of their questions."""
    colours = {image: answer for _, answer, image in zip(*questions, strict=True) if answer in COLOURS}
    found: dict[str, list[Path]] = {colour: [] for colour in COLOURS}
    for image, colour in sorted(colours.items()):
        found[colour].append(Path(paths[image]))
    return found


def _link(folder: Path, paths: Sequence[Path]) -> None:
    folder.mkdir(parents=True)
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())
