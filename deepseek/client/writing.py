"""Generates text with a served language model, and converts text to the model's tokens.

The model must have one input and one output. The input is text encoded as characters. The output contains, for each
position of the input, the logits for the next character.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.client.mesh import Mesh
from deepseek.client.served import served_number
from deepseek.data.encoders import NUM_SPECIAL_TOKENS, CharactersEncoder, restore
from deepseek.models.manifest import ModelManifest

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.floating[Any]]
    Draw = Callable[[FloatArray], int]


_MAX_LOGITS = 8 << 20
"""Maximum number of logits per response."""


def is_language_model(manifest: ModelManifest) -> bool:
    """Returns whether a model predicts the next character at each position of its only input."""
    inputs, outputs = manifest.inputs, manifest.outputs
    encoder = inputs[0].encoder if len(inputs) == 1 else None
    return encoder is not None and encoder.name == "characters" and len(outputs) == 1 and len(outputs[0].shape) == 3


def sampler(temperature: float, seed: Sequence[int]) -> Draw:
    """Returns a function that draws a token from logits.

    Args:
        temperature: Divides the logits before the softmax; 0 always draws the likeliest token.
        seed: Seed of the random numbers.
    """
    generator = np.random.default_rng(seed)

    def draw(logits: FloatArray) -> int:
        if temperature == 0:
            return int(logits.argmax())
        exponents = (logits.astype(np.float64) - float(logits.max())) / temperature
        totals = np.exp(exponents).cumsum()
        return int(np.searchsorted(totals, generator.random() * totals[-1], side="right"))

    return draw


class Writer:
    """A served language model. Not thread-safe.

    Args:
        mesh: Mesh that serves the model.
        model: Name of the model, e.g. `reference`, or of a version that must be the served one, e.g. `reference:3`. All
            requests ask for the version that the name means now, even if an alias moves.
        manifest: Manifest of the version if it is known. `model` is then the resource name of the version.

    Attributes:
        version: Name of the served version, `models/<id>/versions/<n>`.

    Raises:
        NotFound: MODEL_NOT_LOADED if the model, or the named version of it, is not served.
        FailedPrecondition: NO_LANGUAGE_MODEL if the model is not a language model.
    """

    def __init__(self, mesh: Mesh, model: str, *, manifest: ModelManifest | None = None) -> None:
        self._mesh = mesh
        self._model, self._number = model.split("/")[1::2] if manifest else served_number(mesh, model, field="model")
        self.version = f"models/{self._model}/versions/{self._number}"
        manifest = manifest or mesh.models.manifest(mesh.models.version(self.version))
        encoder = manifest.inputs[0].encoder
        if encoder is None or not is_language_model(manifest):
            message = f"{model} is not a language model; choose a model whose only input is text encoded as characters"
            raise FailedPrecondition("NO_LANGUAGE_MODEL", message, field="model")
        self._input, self._output = manifest.inputs[0].name, manifest.outputs[0].name
        self._length = int(encoder.params["length"])
        self._encoder = cast(CharactersEncoder, restore(encoder.name, encoder.params, encoder.state, field=self._input))
        self._characters = self._encoder.tokens

    def tokens(self, text: str) -> list[int]:
        """Returns the token ids of a text of any length."""
        return self._encoder.ids(text)

    def write(self, prompt: str, num_tokens: int, draw: Draw) -> Iterator[str]:
        """Generates a continuation of a prompt, and yields one character at a time.

        Args:
            prompt: Text to continue. If the prompt is longer than the model's input, the model sees only its end.
            num_tokens: Number of characters to generate; each character is one token.
            draw: Function that returns the id of the next token, given the logits with shape (vocabulary size,). The
                logits of tokens that do not represent a character, such as padding, are -inf.

        Raises:
            InvalidArgument: EMPTY_PROMPT if the prompt is empty.
        """
        for (character,) in self.write_all([prompt], num_tokens, [draw]):
            yield character

    def write_all(self, prompts: Sequence[str], num_tokens: int, draws: Sequence[Draw]) -> Iterator[list[str]]:
        """Generates continuations of several prompts together, and yields the next character of each.

        Args:
            prompts: Texts to continue.
            num_tokens: Number of characters to generate for each text.
            draws: Function for each text; see `write`.

        Raises:
            InvalidArgument: EMPTY_PROMPT if a prompt is empty.
        """
        if not all(prompts):
            raise InvalidArgument(
                "EMPTY_PROMPT",
                "the prompt is empty; pass at least one character for the model to continue",
                field="prompt",
            )
        # Only the tokens that the model sees are kept.
        seen = [self.tokens(prompt)[-self._length :] for prompt in prompts]
        for _ in range(num_tokens):
            for tokens, draw, logits in zip(seen, draws, self._next_logits(seen), strict=True):
                tokens.append(draw(logits))
                del tokens[: -self._length]
            yield [self._characters[tokens[-1] - NUM_SPECIAL_TOKENS] for tokens in seen]

    def _next_logits(self, texts: Sequence[Sequence[int]]) -> Iterator[FloatArray]:
        """Yields, for each text, the logits of the next token."""
        size = max(1, _MAX_LOGITS // (self._length * (NUM_SPECIAL_TOKENS + len(self._characters))))
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            array = np.zeros((len(batch), self._length), np.int64)
            for row, tokens in zip(array, batch, strict=True):
                row[: len(tokens)] = tokens
            outputs = self._mesh.inference.infer(self._model, {self._input: array}, version=self._number)
            for found, tokens in zip(outputs[self._output], batch, strict=True):
                logits = np.array(found[len(tokens) - 1], np.float32)
                logits[:NUM_SPECIAL_TOKENS] = -np.inf
                logits[NUM_SPECIAL_TOKENS + len(self._characters) :] = -np.inf
                yield logits
