"""Continuations of texts by a served language model, in place of the logits that `Predictor` would return."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import InvalidArgument, MeshError
from deepseek.client.predictor import Prediction, Predictor
from deepseek.client.writing import Writer, sampler

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh


@dataclass(frozen=True)
class Sampling:
    """How a text is continued.

    Attributes:
        num_tokens: Number of characters to generate.
        temperature: Divides the logits before the softmax; 0 always chooses the likeliest character.
        seed: Seed of the random numbers; None means a new one for each `Continuer`.
    """

    num_tokens: int = 200
    temperature: float = 0.8
    seed: int | None = None


class Continuer(Predictor):
    """Continues texts with a served language model. Not thread-safe.

    The continuation of a row depends on the row, its number and the seed, but not on the division into batches.

    Args:
        mesh: Mesh that serves the model.
        model: Name of the model, as for `Predictor`.
        sampling: How the texts are continued.

    Attributes:
        sampling: How the texts are continued.
        on_character: Called after each character of a batch.

    Raises:
        FailedPrecondition: NO_LANGUAGE_MODEL if the model is not a language model.
        NotFound: As for `Predictor`.
    """

    def __init__(self, mesh: Mesh, model: str, sampling: Sampling) -> None:
        super().__init__(mesh, model)
        self._writer = Writer(mesh, self.version, manifest=self.manifest)
        self.sampling = sampling
        self.on_character: Callable[[], None] = lambda: None
        self._seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._num_rows = 0

    def _predict(self, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        prompts = [self._prompt(row) for row in rows]
        good = {self._num_rows + i: one for i, one in enumerate(prompts) if not isinstance(one, MeshError)}
        self._num_rows += len(rows)
        draws = [sampler(self.sampling.temperature, (self._seed, number)) for number in good]
        texts = [""] * len(good)
        for characters in self._writer.write_all(list(good.values()), self.sampling.num_tokens, draws) if good else ():
            texts = [text + character for text, character in zip(texts, characters, strict=True)]
            self.on_character()
        found = iter(texts)
        return [
            Prediction(error=one) if isinstance(one, MeshError) else Prediction(text=next(found)) for one in prompts
        ]

    def _prompt(self, row: Mapping[str, Any]) -> str | MeshError:
        """Returns the text of a row, or its error."""
        encoded, field = self._encode(row), self.inputs.fields[0]
        if isinstance(encoded, MeshError):
            return encoded
        text = str(row[field] if field in row else row[self.manifest.inputs[0].name])
        if not text:
            return InvalidArgument("EMPTY_PROMPT", "the text is empty; there is nothing to continue", field=field)
        return text
