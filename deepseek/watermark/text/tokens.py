"""Validates tokens and logits that callers pass as lists, ranges, arrays or tensors, or as a batch of one.

Tokens become a list of integers, and logits an array of floats. Errors name the field.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from common.scalars import python_value
from deepseek.arrays import as_array

MAX_TOKEN = (1 << 20) - 1


def check_tokens(given: Any, *, field: str = "tokens") -> list[int]:
    """Returns the tokens of one text.

    Args:
        given: Iterable of integers, or a batch of one such iterable.
        field: Path of the field that holds the tokens in the caller's request; errors report it.

    Raises:
        InvalidArgument: BAD_TOKEN if `given` has another form, or contains an integer that is not a token.

    >>> check_tokens(np.array([[3, 5]]))
    [3, 5]
    """
    tokens = python_value(given)
    if isinstance(tokens, str | bytes | Mapping) or not isinstance(tokens, Iterable):
        more = "; pass its input_ids" if isinstance(tokens, Mapping) else ""
        raise _bad(f"tokens must be a list of integers, not a {type(given).__name__}{more}", field)
    tokens = list(tokens)
    if all(type(token) is int and 0 <= token <= MAX_TOKEN for token in tokens):
        return tokens  # the common case: a detector calls this function for each part of a text
    if any(isinstance(row := python_value(token), list | tuple | range) for token in tokens):
        if len(tokens) > 1:
            raise _bad(f"the batch has {len(tokens)} texts; pass the tokens of one text at a time", field)
        return check_tokens(row, field=field)
    return [check_token(token, field=field) for token in tokens]


def check_token(given: Any, *, field: str = "token") -> int:
    """Returns a token as a Python integer.

    Raises:
        InvalidArgument: BAD_TOKEN if the value is not an integer from 0 to `MAX_TOKEN`.
    """
    try:
        token = operator.index(given)
    except TypeError:
        token = -1
    if isinstance(python_value(given), bool) or not 0 <= token <= MAX_TOKEN:
        message = f"tokens are integers from 0 to {MAX_TOKEN}; use the tokenizer of the model that generated the text"
        raise _bad(f"{str(given)[:80]} is not a token; {message}", field)
    return token


def check_logits(given: Any, *, field: str = "logits_V") -> npt.NDArray[np.floating[Any]]:
    """Returns the next-token logits of one sequence, (vocabulary,), as floats, without reducing their precision.

    Args:
        given: List, array or tensor of logits, or a batch of one such row.
        field: Path of the field that holds the logits in the caller's request; errors report it.

    Raises:
        InvalidArgument: BAD_LOGITS if `given` is not one row of numbers, or if the numbers define no probabilities.
    """
    # NumPy has no bfloat16, but tensors may have that type.
    tensor_or_list = given.double() if hasattr(given, "detach") else given
    logits = as_array(tensor_or_list, reason="BAD_LOGITS", field=field)
    if logits.ndim == 2 and len(logits) == 1:
        logits = logits[0]
    if logits.ndim != 1 or logits.dtype.kind not in "fiu":
        what = f"an array of {logits.dtype} with shape {list(logits.shape)}"
        raise _bad_logits(f"the logits are {what}; pass one number per token of the vocabulary", field)
    if logits.dtype.kind != "f":
        logits = logits.astype(np.float64)
    most = float(logits.max(initial=-np.inf))
    if math.isfinite(most):
        return logits
    if not len(logits):
        raise _bad_logits("there are no logits", field)
    if most == -math.inf:
        raise _bad_logits("all logits are -inf, so no token can be drawn", field)
    raise _bad_logits("a logit is NaN or inf; every logit must be a finite number or -inf", field)


def _bad(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("BAD_TOKEN", message, field=field)


def _bad_logits(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("BAD_LOGITS", message, field=field)
