"""Cursor paging as OpenAI does it, for listings that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mygo.api.service import Listing, Page
from mygo.errors import BadRequest

T = TypeVar("T")


def page_of(items: Sequence[T], page: Page, *, key: Callable[[T], str]) -> Listing[T]:
    """Cut one page out of ``items``, which are in order of creation. ``key`` gives an item's id.

    With ``before`` (and no ``after``), the page is the one that ends right before that item. Raises
    BadRequest if a cursor names no item.
    """
    ordered = list(reversed(items)) if page.descending else list(items)
    ids = [key(item) for item in ordered]
    start = _position(ids, page.after, "after") + 1 if page.after is not None else 0
    end = _position(ids, page.before, "before") if page.before is not None else len(ordered)
    window = ordered[start:end]
    if page.before is not None and page.after is None:
        return Listing(tuple(window[-page.limit :]), has_more=len(window) > page.limit)
    return Listing(tuple(window[: page.limit]), has_more=len(window) > page.limit)


def _position(ids: list[str], cursor: str, param: str) -> int:
    try:
        return ids.index(cursor)
    except ValueError:
        raise BadRequest(
            f"{param}: no item {cursor!r} in this list; list from the start", param=param
        ) from None
