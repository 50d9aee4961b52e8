"""Draws tokens that carry a mark, and detects marks in tokens.

A mark depends on the token ids. If logits are given only for some token ids, they are therefore expanded to the whole
vocabulary. The text itself is neither stored nor sent to the registry, which learns only the id of the mark.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from common.database import Repeatable
from common.errors import InvalidArgument, ResourceExhausted
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.text.detection import Scheme, TextDetection, detect, make_detector, make_sampler
from deepseek.watermark.text.scheme import Detector, Sampler
from deepseek.watermark.text.tokens import MAX_TOKEN, check_logits
from deepseek.watermark.verdict import Verdict
from services.watermark.disclosure import coarse_spans
from services.watermark.keys import KeyStore
from services.watermark.ports import Registry
from services.watermark.resources import watermark_name
from services.watermark.search import CombinedDetection, check_deadline, detect_with_keys
from services.watermark.slots import WorkSlots

MODALITY = "text"
MAX_SEQUENCES = 256

_NUM_CACHED = 256
_RECHECK_INTERVAL_S = 1.0

Values = npt.NDArray[np.float32]


class TextWatermarks:
    """Marks texts and detects marks. Thread-safe.

    Args:
        keys: Keys of all tenants.
        registry: Registry, which draws the ids of marks.
        slots: Work slots, which limit concurrent processing.
        max_tokens: Maximum number of tokens drawn per stream.
    """

    def __init__(self, keys: KeyStore, registry: Registry, slots: WorkSlots, *, max_tokens: int) -> None:
        self._keys = keys
        self._registry = registry
        self._slots = slots
        self._max_tokens = max_tokens
        self._detector: Callable[[Scheme, WatermarkKey], Detector] = lru_cache(_NUM_CACHED)(make_detector)

    def begin(self, tenant: str, scheme: Scheme, call: Repeatable, *, model_version: str) -> "TokenStream":
        """Has the registry draw an id, and returns a token stream whose tokens carry that id.

        Args:
            tenant: Tenant that owns the mark.
            scheme: Scheme that draws the tokens.
            call: Identity of the call, used to recognize repeats.
            model_version: Model version that computes the logits; empty if no version in the registry does.

        Raises:
            MeshError: The errors documented for MarkTokens.
        """
        marking = self._keys.marking_key(tenant, MODALITY, call)
        message = self._registry.create_watermark(
            tenant, MODALITY, model_version, marking.key.epoch, marking.request_id
        )
        return TokenStream(self._keys, scheme, marking.key, message, max_tokens=self._max_tokens)

    def detect(
        self,
        tenant: str,
        scheme: Scheme,
        tokens: Sequence[int],
        *,
        model_version: str,
        whole_only: bool,
        exact: bool,
        may_queue_freely: bool,
    ) -> CombinedDetection[TextDetection]:
        """Detects a mark made with one of the tenant's unrevoked keys.

        Args:
            tenant: Tenant that owns the marks.
            scheme: Scheme with which the tokens may have been drawn.
            tokens: Tokens of the text.
            model_version: Model version whose tokeniser produced the tokens; empty if unknown. If it is unknown, no
                text is reported as unmarked.
            whole_only: Whether to skip the search for marks that cover only a part of the text.
            exact: Whether to return the exact token boundaries of the marked spans. If false, they are rounded (see
                `disclosure`).
            may_queue_freely: See `WorkSlots.acquire`.

        Raises:
            MeshError: The errors documented for DetectText.
        """
        if model_version:
            self._registry.check_model_version(tenant, model_version)

        def detect_with(key: WatermarkKey) -> TextDetection:
            return detect(self._detector(scheme, key), tokens, spans=not whole_only, check=check_deadline)

        with self._slots.acquire(may_queue_freely=may_queue_freely):
            outcome = detect_with_keys(self._keys.detection_keys(tenant, MODALITY), detect_with)
        if outcome.verdict is Verdict.NOT_MARKED and not model_version:
            # A marked text looks unmarked if its tokens were produced with the wrong tokeniser.
            return replace(outcome, verdict=Verdict.INCONCLUSIVE)
        if outcome.mark is None or exact:
            return outcome
        return replace(outcome, detection=replace(outcome.mark, spans=coarse_spans(outcome.mark.spans, len(tokens))))


class TokenStream:
    """Draws the tokens of one or more sequences, which all carry the same id. Not thread-safe.

    Attributes:
        watermark: Name of the watermark, `watermarks/<id>`.

    Args:
        keys: Key store, used to check whether the key has been revoked.
        scheme: Scheme that draws the tokens.
        key: Key with which the tokens are marked.
        message: Id that the mark carries.
        max_tokens: Maximum number of tokens, over all sequences.
    """

    def __init__(self, keys: KeyStore, scheme: Scheme, key: WatermarkKey, message: int, *, max_tokens: int) -> None:
        self.watermark = watermark_name(message)
        self._keys = keys
        self._scheme = scheme
        self._key = key
        self._message = message
        self._max_tokens = max_tokens
        self._samplers: dict[int, Sampler] = {}
        self._num_tokens = 0
        self._num_logits = 0
        self._checked_s = time.monotonic()

    def draw(self, sequence: int, values: Values, tokens: Sequence[int]) -> int:
        """Draws the next token of a sequence.

        Args:
            sequence: Number that identifies the sequence. A number that has not been used yet starts a new sequence.
            values: Logits of the next token.
            tokens: Token id of each logit; empty if there is a logit for every token of the vocabulary.

        Raises:
            InvalidArgument: BAD_LOGITS, VOCABULARY_CHANGED, BAD_TOKEN.
            ResourceExhausted: TOO_MANY_SEQUENCES, TOO_MANY_TOKENS.
            FailedPrecondition: NO_ACTIVE_KEY if the key has been revoked.
        """
        if time.monotonic() - self._checked_s > _RECHECK_INTERVAL_S:
            self._keys.check_usable(self._key)
            self._checked_s = time.monotonic()
        check_logits(values, field="logits.values")
        if len(tokens):
            numbers = _checked_tokens(tokens, len(values))
        elif self._num_logits not in (0, len(values)):
            message = (
                f"received {len(values)} logits, but {self._num_logits} for earlier tokens; the vocabulary size must "
                "not change"
            )
            raise InvalidArgument("VOCABULARY_CHANGED", message, field="logits.values")
        elif len(values) > MAX_TOKEN + 1:
            message = f"received {len(values)} logits, but the greatest token id is {MAX_TOKEN}"
            raise InvalidArgument("BAD_TOKEN", message, field="logits.values")
        else:
            numbers, self._num_logits = None, len(values)
        return self._sampler(sequence).draw(values if numbers is None else _spread(values, numbers))

    def _sampler(self, sequence: int) -> Sampler:
        if self._num_tokens >= self._max_tokens:
            message = f"this stream has drawn {self._num_tokens} tokens, the maximum; start another stream"
            raise ResourceExhausted("TOO_MANY_TOKENS", message, field="logits")
        if sequence not in self._samplers:
            if len(self._samplers) >= MAX_SEQUENCES:
                message = f"this stream has {MAX_SEQUENCES} sequences, the maximum; start another stream"
                raise ResourceExhausted("TOO_MANY_SEQUENCES", message, field="logits.sequence")
            self._samplers[sequence] = make_sampler(self._scheme, self._key, self._message)
        self._num_tokens += 1
        return self._samplers[sequence]


def _checked_tokens(tokens: Sequence[int], num_values: int) -> npt.NDArray[np.int64]:
    if len(tokens) != num_values:
        message = f"received {len(tokens)} token ids and {num_values} logits; send one logit per token id"
        raise InvalidArgument("BAD_LOGITS", message, field="logits.tokens")
    numbers = np.fromiter(tokens, np.int64, len(tokens))
    if numbers.max() > MAX_TOKEN:
        message = f"{numbers.max()} is not a token id; token ids are 0 to {MAX_TOKEN}"
    elif len(np.unique(numbers)) < len(numbers):
        message = "a token id occurs twice; send each token id once"
    else:
        return numbers
    raise InvalidArgument("BAD_TOKEN", message, field="logits.tokens")


def _spread(values: Values, numbers: npt.NDArray[np.int64]) -> Values:
    """Returns logits for all token ids from 0 to the greatest in `numbers`; ids without a logit get -inf."""
    spread = np.full(int(numbers.max()) + 1, -np.inf, np.float32)
    spread[numbers] = values
    return spread
