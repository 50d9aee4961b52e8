"""Draws tokens that carry a mark, and finds marks in tokens.

Logits that come with tokens are spread over a whole vocabulary, since a mark belongs to a token's number. What is drawn
is in the caller's hands from then on, so the registry learns of the id and never of the text.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument, ResourceExhausted
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.text.detection import Scheme, TextDetection, detect, make_detector, make_sampler
from deepseek.watermark.text.scheme import Detector, Sampler
from deepseek.watermark.text.tokens import MAX_TOKEN, check_logits
from deepseek.watermark.verdict import Verdict
from services.watermark.keys import Keys
from services.watermark.oracle import rounded_spans
from services.watermark.search import Outcome, check_deadline, look
from services.watermark.turns import Turns
from services.watermark.watermarks import Watermarks, watermark_name

MODALITY = "text"
MAX_SEQUENCES = 256

_NUM_CACHED = 256
_LOOK_S = 1.0

Values = npt.NDArray[np.float32]


class Texts:
    """Marks and finds. Thread-safe.

    Args:
        keys: Of all tenants.
        watermarks: The registry.
        turns: Who may work now.
        max_tokens: That are drawn in one stream.
    """

    def __init__(self, keys: Keys, watermarks: Watermarks, turns: Turns, *, max_tokens: int) -> None:
        self._keys = keys
        self._watermarks = watermarks
        self._turns = turns
        self._max_tokens = max_tokens
        self._detector: Callable[[Scheme, WatermarkKey], Detector] = lru_cache(_NUM_CACHED)(make_detector)

    def begin(self, tenant: str, scheme: Scheme, *, model_version: str, request_id: str, body: bytes) -> "TokenStream":
        """Has an id drawn, and begins to draw tokens that carry it.

        Args:
            tenant: Whose mark.
            scheme: How tokens are drawn.
            model_version: Whose logits they are; empty if none of the registry's.
            request_id: Makes repeats harmless; empty for no protection.
            body: The request's bytes, compared when the id comes again.

        Raises:
            MeshError: As MarkTokens documents.
        """
        marking = self._keys.for_marking(tenant, MODALITY, method="MarkTokens", request_id=request_id, body=body)
        message = self._watermarks.create(tenant, MODALITY, model_version, marking.key.epoch, marking.request_id)
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
        patient: bool,
    ) -> Outcome[TextDetection]:
        """Looks for a mark, by every key that is not revoked.

        Args:
            tenant: Whose marks.
            scheme: How tokens would have been drawn.
            tokens: The text.
            model_version: Whose tokeniser's they are; empty if that is not known, and then none is said to be unmarked.
            whole_only: Whether to leave out what is marked in part.
            exact: Whether to tell spans to the token.
            patient: As `Turns.take` has it.

        Raises:
            MeshError: As DetectText documents.
        """
        if model_version:
            self._watermarks.check_version(tenant, model_version)

        def detect_by(key: WatermarkKey) -> TextDetection:
            return detect(self._detector(scheme, key), tokens, spans=not whole_only, check=check_deadline)

        with self._turns.take(patient=patient):
            outcome = look(self._keys.for_finding(tenant, MODALITY), detect_by)
        if outcome.verdict is Verdict.NOT_MARKED and not model_version:
            # Tokens of another tokeniser look just like this.
            return replace(outcome, verdict=Verdict.INCONCLUSIVE)
        if outcome.mark is None or exact:
            return outcome
        return replace(outcome, detection=replace(outcome.mark, spans=rounded_spans(outcome.mark.spans, len(tokens))))


class TokenStream:
    """Draws the tokens of some sequences, which carry one id. Not thread-safe.

    Attributes:
        watermark: `watermarks/<id>`.

    Args:
        keys: Asked now and then whether the key still marks.
        scheme: How tokens are drawn.
        key: The key.
        message: The id.
        max_tokens: That are drawn.
    """

    def __init__(self, keys: Keys, scheme: Scheme, key: WatermarkKey, message: int, *, max_tokens: int) -> None:
        self.watermark = watermark_name(message)
        self._keys = keys
        self._scheme = scheme
        self._key = key
        self._message = message
        self._max_tokens = max_tokens
        self._samplers: dict[int, Sampler] = {}
        self._num_tokens = 0
        self._num_logits = 0
        self._looked_s = time.monotonic()

    def draw(self, sequence: int, values: Values, tokens: Sequence[int]) -> int:
        """Draws the next token of a sequence.

        Args:
            sequence: Which; one that did not come before begins.
            values: Its logits.
            tokens: Whose they are; empty if they are those of all.

        Raises:
            InvalidArgument: BAD_LOGITS, VOCABULARY_CHANGED, BAD_TOKEN.
            ResourceExhausted: TOO_MANY_SEQUENCES, TOO_MANY_TOKENS.
            FailedPrecondition: NO_ACTIVE_KEY: the key was revoked.
        """
        if time.monotonic() - self._looked_s > _LOOK_S:
            self._keys.check_usable(self._key)
            self._looked_s = time.monotonic()
        check_logits(values, field="logits.values")
        if len(tokens):
            numbers = _checked_tokens(tokens, len(values))
        elif self._num_logits not in (0, len(values)):
            message = (
                f"{len(values)} logits came where there were {self._num_logits} before; a vocabulary stays as it is"
            )
            raise InvalidArgument("VOCABULARY_CHANGED", message, field="logits.values")
        elif len(values) > MAX_TOKEN + 1:
            message = f"{len(values)} logits came; tokens are numbers from 0 to {MAX_TOKEN}"
            raise InvalidArgument("BAD_TOKEN", message, field="logits.values")
        else:
            numbers, self._num_logits = None, len(values)
        return self._sampler(sequence).draw(values if numbers is None else _spread(values, numbers))

    def _sampler(self, sequence: int) -> Sampler:
        if self._num_tokens >= self._max_tokens:
            message = f"{self._num_tokens} tokens were drawn in this stream, the most there may be; begin another"
            raise ResourceExhausted("TOO_MANY_TOKENS", message, field="logits")
        if sequence not in self._samplers:
            if len(self._samplers) >= MAX_SEQUENCES:
                message = f"the stream has {MAX_SEQUENCES} sequences, the most there may be; begin another"
                raise ResourceExhausted("TOO_MANY_SEQUENCES", message, field="logits.sequence")
            self._samplers[sequence] = make_sampler(self._scheme, self._key, self._message)
        self._num_tokens += 1
        return self._samplers[sequence]


def _checked_tokens(tokens: Sequence[int], num_values: int) -> npt.NDArray[np.int64]:
    if len(tokens) != num_values:
        message = f"{len(tokens)} tokens came with {num_values} logits; each token has one"
        raise InvalidArgument("BAD_LOGITS", message, field="logits.tokens")
    numbers = np.fromiter(tokens, np.int64, len(tokens))
    if numbers.max() > MAX_TOKEN:
        message = f"{numbers.max()} is no token; tokens are numbers from 0 to {MAX_TOKEN}"
    elif len(np.unique(numbers)) < len(numbers):
        message = "a token came twice"
    else:
        return numbers
    raise InvalidArgument("BAD_TOKEN", message, field="logits.tokens")


def _spread(values: Values, numbers: npt.NDArray[np.int64]) -> Values:
    """The logits of a whole vocabulary, as far as it is needed."""
    spread = np.full(int(numbers.max()) + 1, -np.inf, np.float32)
    spread[numbers] = values
    return spread
