"""Encoders. Each encoder converts single values of a data set field into arrays of fixed shape and dtype.

The trainer, the CLI and model serving all use these classes, so they must not depend on torch. The learned state of an
encoder is stored as a small JSON object in the model's manifest. `restore` rebuilds the encoder from this object. The
rebuilt encoder gives exactly the same outputs, even if an older release stored the object. Learning is deterministic: a
vocabulary is ordered by descending count, then by code point. Augmentation and the padding of lists are handled
elsewhere.
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
from deepseek.data.manifest import DEFAULT_ENCODERS as DEFAULT_ENCODERS
from deepseek.data.manifest import Field
from deepseek.data.words import split_words

PAD = 0
"""Token id that pads a shorter text to the encoder's length."""
UNKNOWN = 1
"""Token id of every word or character that is not in the vocabulary."""
NUM_SPECIAL_TOKENS = 2

TEXT_VERSION = 2
"""Current version of the encoders `words` and `characters`. In version 2, both normalize text to NFC, and `words`
splits text by UAX #29. Version 1 does neither."""

_WORD = re.compile(r"\w+")
_GREATEST_FLOAT32 = float(np.finfo(np.float32).max)


class Encoder(ABC):
    """Converts the values of one field into arrays.

    An encoder is first bound to its field, then fitted to the training split. After that, the encoder does not change,
    and `encode` is thread-safe.

    Attributes:
        learns: Whether the encoder learns from data. If False, `fit` does nothing.
        before: Parameters that were added after the encoder's first release. Each name maps to the value that
            reproduces the earlier behaviour. `restore` uses it for an encoder that was stored without the parameter.
        params: Keyword arguments that build an unfitted encoder with the same settings.
        shape: Shape of an encoded value.
        dtype: Dtype of an encoded value.
        pad: Value with which the shorter lists of a repeated field are padded to the longest list in a batch.
    """

    learns: ClassVar[bool] = False
    before: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)
    pad: ClassVar[int] = 0

    def __init__(self, shape: tuple[int, ...], **params: Any) -> None:
        self.shape = shape
        self.params: dict[str, Any] = params

    def bind(self, field: Field) -> None:  # noqa: B027 - most encoders need nothing from the schema
        """Reads settings, e.g. labels, from the field's schema. Called before `fit`."""

    def fit(self, values: Iterable[Any]) -> None:  # noqa: B027 - most encoders learn nothing
        """Learns from the field's values in the training split."""

    @abstractmethod
    def encode(self, value: Any) -> npt.NDArray[Any]:
        """Encodes one value.

        Raises:
            InvalidArgument: The value is damaged, has the wrong type or is not allowed in the field.
        """

    def state(self) -> dict[str, Any]:
        """Returns the learned state as a JSON object."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores a learned state. The state may come from an untrusted source.

        Raises:
            InvalidArgument: BAD_STATE if `state` is not a valid state of this encoder.
        """
        if state:
            raise InvalidArgument("BAD_STATE", f"{type(self).__name__} has no state; omit the state that was given")


class ImageEncoder(Encoder):
    """Decodes an image to uint8 [size, size, channels].

    An image of a different size is resized as by torchvision's `Resize((size, size))`: by bilinear interpolation with
    antialiasing, and without preserving the aspect ratio.

    Args:
        size: Height and width of the encoded image in pixels, from 1 to 4096.
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
        """Encodes the pixels of an image, as they appear in an image viewer.

        Args:
            value: Bytes of an image file, or a `PIL.Image.Image`.
        """
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
    """Converts text to token ids, int64 [length]. The vocabulary is learned from the training split."""

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
        """Returns the token ids of a whole text, without truncation or padding."""
        return [self._ids.get(token, UNKNOWN) for token in self.split(text)]

    def encode(self, value: Any) -> npt.NDArray[np.int64]:
        """Encodes a text. The tokens are truncated or padded to the encoder's `length`."""
        encoded = np.full(self._length, PAD, np.int64)
        found = self.ids(_text(value))[: self._length]
        encoded[: len(found)] = found
        return encoded

    def state(self) -> dict[str, Any]:
        return {"tokens": list(self.tokens)}

    def load_state(self, state: dict[str, Any]) -> None:
        tokens = _strings(state, "tokens")
        if len(tokens) > self._vocabulary - NUM_SPECIAL_TOKENS:
            most = self._vocabulary - NUM_SPECIAL_TOKENS
            message = f"the state has {len(tokens)} tokens; a vocabulary of {self._vocabulary} can hold at most {most}"
            raise InvalidArgument("BAD_STATE", message, field="tokens")
        self._set(tokens)

    def _set(self, tokens: list[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: i + NUM_SPECIAL_TOKENS for i, token in enumerate(tokens)}


class WordsEncoder(_TokenEncoder):
    """Converts a text to the token ids of its lower-cased words, int64 [length]. 0 means padding, 1 an unknown word.

    Args:
        length: Number of words to keep; the rest of the text is dropped.
        vocabulary: Maximum number of token ids, including the two special ones, 0 and 1.
        version: Version of the rule that splits text into words. Version 2 uses `deepseek.data.words`. Version 1, for
            older models, uses Python's regular expression `\\w+`, which splits words at apostrophes and vowel signs.
    """

    def __init__(self, length: int = 16, vocabulary: int = 64, version: int = TEXT_VERSION) -> None:
        super().__init__(length, vocabulary, version)

    def split(self, text: str) -> list[str]:
        return split_words(text) if self._version > 1 else _WORD.findall(text.lower())


class CharactersEncoder(_TokenEncoder):
    """Converts a text to the token ids of its characters, int64 [length]. 0 means padding, 1 an unknown character.

    Args:
        length: Number of characters (code points) to keep; the rest of the text is dropped.
        vocabulary: Maximum number of token ids, including the two special ones, 0 and 1.
        version: Version of the encoder. Version 2 normalizes text to NFC first. Version 1, for older models, does not.
    """

    def __init__(self, length: int = 64, vocabulary: int = 128, version: int = TEXT_VERSION) -> None:
        super().__init__(length, vocabulary, version)

    def split(self, text: str) -> list[str]:
        return list(unicodedata.normalize("NFC", text) if self._version > 1 else text)


class LabelEncoder(Encoder):
    """Converts a label to its class number, int64 []. Lists are padded with -1, which loss functions ignore.

    The labels and their order come from the schema. The composed and the decomposed Unicode form of a label are treated
    as the same label.
    """

    pad = -1

    def __init__(self) -> None:
        super().__init__(())
        self.labels: tuple[str, ...] = ()
        self._ids: dict[str, int] = {}

    def bind(self, field: Field) -> None:
        if field.type != "label":
            message = f"the field {field.name!r} has the type {field.type}; the encoder label requires the type label"
            raise InvalidArgument("BAD_VALUE", message)
        self._set(list(field.labels))

    def encode(self, value: Any) -> npt.NDArray[np.int64]:
        """Encodes a label.

        Raises:
            InvalidArgument: UNKNOWN_LABEL if the field has no such label; WRONG_TYPE if `value` is not text.
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
    """Converts an integer to a scalar array, int64 []. Lists are padded with -1."""

    pad = -1

    def __init__(self) -> None:
        super().__init__(())

    def encode(self, value: Any) -> npt.NDArray[np.int64]:
        """Encodes an integer, which must be in the range of int64."""
        value = python_value(value)
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
            raise _wrong_type(value, "a 64-bit integer")
        return np.array(value, np.int64)


class NumberEncoder(Encoder):
    """Converts a number to a scalar array, float32 []. Lists are padded with 0."""

    dtype = np.dtype(np.float32)

    def __init__(self) -> None:
        super().__init__(())

    def encode(self, value: Any) -> npt.NDArray[np.float32]:
        """Encodes a finite number, which must be in the range of float32."""
        value = python_value(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _GREATEST_FLOAT32:
            raise _wrong_type(value, "a finite number")
        return np.array(float(value), np.float32)


def restore(
    name: str, params: Mapping[str, Any], state: Mapping[str, Any] | None = None, *, field: str = ""
) -> Encoder:
    """Rebuilds an encoder from its description in a run's complete spec or in a model's manifest.

    Args:
        name: Name of the encoder in the registry `deepseek.encoders`.
        params: Stored parameters. Parameters that were added to the encoder after it was stored are set to values that
            preserve its behaviour.
        state: Learned state; None for an encoder that has not been fitted.
        field: Path of the encoder in the caller's document, for use in errors.

    Raises:
        InvalidArgument: As in `Components.build`; BAD_STATE if `state` is not a valid state of the encoder.
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
        raise InvalidArgument("BAD_STATE", f"the state must contain the list {key!r} and nothing else", field=key)
    if not all(isinstance(value, str) and value and is_unicode(value) for value in values):
        raise InvalidArgument("BAD_STATE", f"every entry of {key} must be non-empty text in valid Unicode", field=key)
    if len(set(values)) != len(values):
        raise InvalidArgument("BAD_STATE", f"{key} contains the same entry twice", field=key)
    return list(values)
