"""Encoders: one value of a data set's field in, one array of fixed shape and dtype out.

The same class runs in the trainer, in the CLI and beside a served model, so none of it needs torch, and what an encoder
has learned is small JSON that travels in the model's manifest: from it `restore` makes an encoder with exactly the same
outputs, whichever release stored it. Learning is deterministic: a vocabulary is ordered by falling count, then by code
point.

Augmentation is not encoding (`deepseek.data.augmentations`); nor is collecting the repeated values of a sample into one
array (`deepseek.data.datasets`).
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.errors import InvalidArgument
from common.scalars import python_value
from deepseek.components import ENCODERS
from deepseek.data import media, pictures
from deepseek.data.canonical_json import is_unicode
from deepseek.data.manifest import Field
from deepseek.data.words import split_words

PAD = 0
"""Token that fills a text up to its length."""
UNKNOWN = 1
"""Token of a word or character that the vocabulary does not hold."""
NUM_SPECIAL_TOKENS = 2

DEFAULT_ENCODERS = {"image": "image", "text": "words", "label": "label", "integer": "integer", "number": "number"}
"""Name of the encoder that a field's type gets where none is asked for; types that are not here have none."""

TEXT_VERSION = 2
"""Version of `words` and `characters`: 2 normalizes texts to NFC and splits words by UAX #29; 1 does neither."""

_WORD = re.compile(r"\w+")
_GREATEST_FLOAT32 = float(np.finfo(np.float32).max)


class Encoder(ABC):
    """Turns the values of one field into arrays.

    An encoder is first told its field, then fitted on the training split, then only read: `encode` is thread-safe.

    Attributes:
        learns: Whether `fit` does anything.
        before: Values of parameters that were added later, for encoders that were stored without them.
        params: Keyword arguments that make an equal, unfitted encoder.
        shape: Shape of an encoded value.
        dtype: Its dtype.
        pad: What fills the places of missing values where samples hold lists of different length.
    """

    learns: ClassVar[bool] = False
    before: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)
    pad: ClassVar[int] = 0

    def __init__(self, shape: tuple[int, ...], **params: Any) -> None:
        self.shape = shape
        self.params: dict[str, Any] = params

    def bind(self, field: Field) -> None:  # noqa: B027 - most encoders need nothing from the schema
        """Takes what the encoder needs from the schema; called before `fit`."""

    def fit(self, values: Iterable[Any]) -> None:  # noqa: B027 - most encoders learn nothing
        """Learns from the values of the training split, and from no other."""

    @abstractmethod
    def encode(self, value: Any) -> npt.NDArray[Any]:
        """Encodes one value.

        Raises:
            InvalidArgument: The value is damaged or of the wrong type.
        """

    def state(self) -> dict[str, Any]:
        """Returns what was learned, as JSON values."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned, from anyone.

        Raises:
            InvalidArgument: BAD_STATE if it is not such a state.
        """
        if state:
            raise InvalidArgument("BAD_STATE", f"{type(self).__name__} has no state, yet some was given")


class ImageEncoder(Encoder):
    """Decodes an image to uint8 [size, size, channels].

    An image of another size is resized to it (bilinear with antialiasing, as torchvision's `Resize((size, size))`): its
    aspect ratio is not kept.

    Args:
        size: Height and width, pixels; 1 to 4096.
        mode: `RGB` (3 channels) or `L` (1 channel, grey).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, size: int = 64, mode: str = "RGB") -> None:
        size = _check_range("size", size, 1, 4096)
        if mode not in ("RGB", "L"):
            raise InvalidArgument("BAD_VALUE", f"mode is {mode[:80]!r}; it must be RGB or L", field="mode")
        super().__init__((size, size, len(mode)), size=size, mode=mode)
        self._size = size
        self._mode = mode

    def encode(self, value: Any) -> npt.NDArray[np.uint8]:
        """Encodes the bytes of an image file, or a `PIL.Image.Image`, as viewers show it."""
        if isinstance(value, Image.Image):
            image = pictures.as_shown(value, self._mode)
        elif isinstance(value, bytes):
            image = media.decode_image(value, mode=self._mode)
        else:
            raise _wrong_type(value, "an encoded image")
        if image.size != (self._size, self._size):
            image = image.resize((self._size, self._size), Image.Resampling.BILINEAR)
        return np.array(image, dtype=np.uint8).reshape(self.shape)


class _TokenEncoder(Encoder):
    """Text to int64 [length] by a vocabulary learned from the training split."""

    learns = True
    before = MappingProxyType({"version": 1})

    def __init__(self, length: int, vocabulary: int, version: int) -> None:
        length = _check_range("length", length, 1, 1 << 20)
        vocabulary = _check_range("vocabulary", vocabulary, NUM_SPECIAL_TOKENS + 1, 1 << 20)
        _check_range("version", version, 1, TEXT_VERSION)
        super().__init__((length,), length=length, vocabulary=vocabulary, version=version)
        self._length = length
        self._vocabulary = vocabulary
        self._version = version
        self.tokens: tuple[str, ...] = ()
        self._ids: dict[str, int] = {}

    @abstractmethod
    def split(self, text: str) -> list[str]:
        """Splits a text into tokens."""

    def fit(self, values: Iterable[Any]) -> None:
        counts: Counter[str] = Counter()
        for value in values:
            counts.update(self.split(_text(value)))
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        self._set(ranked[: self._vocabulary - NUM_SPECIAL_TOKENS])

    def ids(self, text: str) -> list[int]:
        """Returns the number of every token of a text of any length."""
        return [self._ids.get(token, UNKNOWN) for token in self.split(text)]

    def encode(self, value: Any) -> npt.NDArray[np.int64]:
        """Encodes a text; what goes beyond `length` is cut off."""
        encoded = np.full(self._length, PAD, np.int64)
        found = self.ids(_text(value))[: self._length]
        encoded[: len(found)] = found
        return encoded

    def state(self) -> dict[str, Any]:
        return {"tokens": list(self.tokens)}

    def load_state(self, state: dict[str, Any]) -> None:
        tokens = _strings(state, "tokens")
        if len(tokens) > self._vocabulary - NUM_SPECIAL_TOKENS:
            message = f"the state has {len(tokens)} tokens; a vocabulary of {self._vocabulary} holds fewer"
            raise InvalidArgument("BAD_STATE", message, field="tokens")
        self._set(tokens)

    def _set(self, tokens: list[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: i + NUM_SPECIAL_TOKENS for i, token in enumerate(tokens)}


class WordsEncoder(_TokenEncoder):
    """Lower-cased words to int64 [length]: 0 is padding, 1 an unknown word.

    Args:
        length: Words kept; the rest is cut off.
        vocabulary: Number of tokens, the two special ones included.
        version: How a text is split: 2 as `deepseek.data.words` describes; 1, for models from before version 2, by
            Python's regular expression `\\w+`, which splits words at vowel signs and apostrophes.
    """

    def __init__(self, length: int = 16, vocabulary: int = 64, version: int = TEXT_VERSION) -> None:
        super().__init__(length, vocabulary, version)

    def split(self, text: str) -> list[str]:
        return split_words(text) if self._version > 1 else _WORD.findall(text.lower())


class CharactersEncoder(_TokenEncoder):
    """Characters (code points) to int64 [length]: 0 is padding, 1 an unknown character.

    Args:
        length: Characters kept; the rest is cut off.
        vocabulary: Number of tokens, the two special ones included.
        version: 2 normalizes a text to NFC first; 1, for models from before version 2, does not.
    """

    def __init__(self, length: int = 64, vocabulary: int = 128, version: int = TEXT_VERSION) -> None:
        super().__init__(length, vocabulary, version)

    def split(self, text: str) -> list[str]:
        return list(unicodedata.normalize("NFC", text) if self._version > 1 else text)


class LabelEncoder(Encoder):
    """A label to its class number, int64 []; missing labels are -1, which losses ignore.

    The labels come from the schema, so their order is the data set's. Composed and decomposed forms are one label.
    """

    pad = -1

    def __init__(self) -> None:
        super().__init__(())
        self.labels: tuple[str, ...] = ()
        self._ids: dict[str, int] = {}

    def bind(self, field: Field) -> None:
        if field.type != "label":
            message = f"the encoder label needs a field of type label; {field.name!r} is {field.type}"
            raise InvalidArgument("BAD_VALUE", message)
        self._set(list(field.labels))

    def encode(self, value: Any) -> npt.NDArray[np.int64]:
        """Encodes a label.

        Raises:
            InvalidArgument: UNKNOWN_LABEL.
        """
        label = _text(value)
        number = self._ids.get(label, self._ids.get(unicodedata.normalize("NFC", label)))
        if number is None:
            message = f"{label[:80]!r} is not one of the labels {', '.join(self.labels[:50])}"
            raise InvalidArgument("UNKNOWN_LABEL", message)
        return np.array(number, np.int64)

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._set(_strings(state, "labels"))

    def _set(self, labels: list[str]) -> None:
        self.labels = tuple(labels)
        numbers = {label: i for i, label in enumerate(labels)}
        self._ids = {unicodedata.normalize("NFC", label): i for label, i in numbers.items()} | numbers


class IntegerEncoder(Encoder):
    """An integer as it stands, int64 []; missing ones are -1."""

    pad = -1

    def __init__(self) -> None:
        super().__init__(())

    def encode(self, value: Any) -> npt.NDArray[np.int64]:
        """Encodes an integer of 64 bits."""
        value = python_value(value)
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
            raise _wrong_type(value, "a 64-bit integer")
        return np.array(value, np.int64)


class NumberEncoder(Encoder):
    """A number as float32 []; missing ones are 0."""

    dtype = np.dtype(np.float32)

    def __init__(self) -> None:
        super().__init__(())

    def encode(self, value: Any) -> npt.NDArray[np.float32]:
        """Encodes a finite number that float32 can hold."""
        value = python_value(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _GREATEST_FLOAT32:
            raise _wrong_type(value, "a finite number")
        return np.array(float(value), np.float32)


def restore(
    name: str, params: Mapping[str, Any], state: Mapping[str, Any] | None = None, *, field: str = ""
) -> Encoder:
    """Builds an encoder as it was stored in a run's complete spec or in a model's manifest.

    Args:
        name: Its name in the registry `deepseek.encoders`.
        params: Its parameters; parameters that were added since get the values that keep its behaviour.
        state: What it learned; None if it is yet to be fitted.
        field: Its path in the caller's document, for errors.

    Raises:
        InvalidArgument: As `Components.build`, and BAD_STATE.
    """
    before = getattr(ENCODERS.get(name, field=f"{field}.name".lstrip(".")), "before", {})
    encoder: Encoder = ENCODERS.build(name, {**before, **params}, field=field)
    if state is not None:
        encoder.load_state(dict(state))
    return encoder


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "text")
    return value


def _wrong_type(value: Any, expected: str) -> InvalidArgument:
    shown = value if isinstance(value, int | float) else type(value).__name__
    return InvalidArgument("WRONG_TYPE", f"needs {expected}, not {str(shown)[:80]}")


def _check_range(name: str, given: int, least: int, greatest: int) -> int:
    value = python_value(given)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= greatest:
        message = f"{name} is {str(given)[:80]}; it must be an integer from {least} to {greatest}"
        raise InvalidArgument("BAD_VALUE", message, field=name)
    return value


def _strings(state: dict[str, Any], key: str) -> list[str]:
    values = state.get(key)
    if set(state) != {key} or not isinstance(values, list):
        raise InvalidArgument("BAD_STATE", f"the state must hold the list {key!r} and nothing else", field=key)
    if not all(isinstance(value, str) and value and is_unicode(value) for value in values):
        raise InvalidArgument("BAD_STATE", f"{key} holds something that is not text", field=key)
    if len(set(values)) != len(values):
        raise InvalidArgument("BAD_STATE", f"{key} repeats an entry", field=key)
    return list(values)
