"""Text from a served language model, token by token, and back into tokens.

What a model is asked, and which tokens its text has, follows from its manifest: it has one input, text in characters,
and one output, logits for the successor of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.data.encoders import NUM_SPECIAL_TOKENS, CharactersEncoder, restore

if TYPE_CHECKING:
    import numpy.typing as npt

    from deepseek.client.mesh import Mesh

    Draw = Callable[[npt.NDArray[np.floating[Any]]], int]


class Writer:
    """A served language model. Not thread-safe.

    Args:
        mesh: Where it is served.
        model: Its name.

    Attributes:
        version: `models/<id>/versions/<n>` that is served.

    Raises:
        FailedPrecondition: NO_LANGUAGE_MODEL.
    """

    def __init__(self, mesh: Mesh, model: str) -> None:
        self._mesh, self._model = mesh, model
        self._number = mesh.inference.metadata(model).versions[0]
        self.version = f"models/{model}/versions/{self._number}"
        manifest = mesh.models.manifest(mesh.models.version(self.version))
        encoder = manifest.inputs[0].encoder
        if len(manifest.inputs) != 1 or encoder is None or encoder.name != "characters":
            message = f"{model} is no language model of this mesh: those take one text, in characters"
            raise FailedPrecondition("NO_LANGUAGE_MODEL", message, field="model")
        self._input, self._output = manifest.inputs[0].name, manifest.outputs[0].name
        self._length = int(encoder.params["length"])
        self._encoder = cast(CharactersEncoder, restore(encoder.name, encoder.params, encoder.state, field=self._input))
        self._characters = self._encoder.tokens

    def tokens(self, text: str) -> list[int]:
        """A text of any length in tokens."""
        return self._encoder.ids(text)

    def write(self, prompt: str, num_tokens: int, draw: Draw) -> Iterator[str]:
        """Goes on from a prompt, a character at a time.

        Args:
            prompt: What comes before; the model sees as much of its end as it takes.
            num_tokens: How many follow.
            draw: Draws a token by its logits, (vocabulary,); those of padding and unknown characters are -inf.

        Raises:
            InvalidArgument: EMPTY_PROMPT.
        """
        if not prompt:
            raise InvalidArgument("EMPTY_PROMPT", "the model goes on from a prompt; give one", field="prompt")
        tokens = self.tokens(prompt)
        for _ in range(num_tokens):
            seen = tokens[-self._length :]
            text = np.zeros((1, self._length), np.int64)
            text[0, : len(seen)] = seen
            outputs = self._mesh.inference.infer(self._model, {self._input: text}, version=self._number)
            logits = np.array(outputs[self._output][0, len(seen) - 1], np.float32)
            logits[:NUM_SPECIAL_TOKENS] = -np.inf
            logits[NUM_SPECIAL_TOKENS + len(self._characters) :] = -np.inf
            tokens.append(draw(logits))
            yield self._characters[tokens[-1] - NUM_SPECIAL_TOKENS]
