"""Walking through the pages of a List call."""

from collections.abc import Callable, Iterator
from typing import Any


def pages(call: Callable[[Any], Any], request: Any) -> Iterator[Any]:
    """Every page of a List call, one response after the other.

    Args:
        call: The stub's List method.
        request: Its request; the page token is filled in here.
    """
    while True:
        response = call(request)
        yield response
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token
