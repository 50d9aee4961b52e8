"""Reads all pages of a List call."""

from collections.abc import Callable, Iterator
from typing import Any


def pages(call: Callable[[Any], Any], request: Any) -> Iterator[Any]:
    """Yields the responses of a List call, one per page.

    Args:
        call: List method of a stub.
        request: Request for that method. This function changes the request's page token.
    """
    while True:
        response = call(request)
        yield response
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token
