"""OpenAI's cursor pagination over a table with ``created_at`` and ``sequence`` columns."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from mygo.errors import BadRequest, NotFound

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Items by creation time, ties by insertion. Raises BadRequest for a limit or order it cannot have."""

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    """Only items behind the one with this id."""
    before: str | None = None
    """Only items ahead of the one with this id; without ``after``, those nearest to it."""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise BadRequest(f"limit must be at least 1 (got {self.limit})", param="limit")
        if self.order not in ("asc", "desc"):
            raise BadRequest(f"order must be 'asc' or 'desc' (got {self.order!r})", param="order")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """What can be listed: the rows of a table within one scope, say a tenant."""

    table: str
    """Or a view, or a query in parentheses; with the columns ``created_at`` and ``sequence``."""
    id_column: str
    scope_column: str
    read: Callable[[sqlite3.Row], T]

    def page(
        self, connection: sqlite3.Connection, scope: str, request: PageRequest, **filters: str | None
    ) -> tuple[list[T], bool]:
        """The items of one page, in order, and whether more lie beyond it.

        ``filters`` (column = value, None for any) thin the list out but do not invalidate cursors.
        Raises NotFound if a cursor is not in the list.
        """
        wanted = {column: value for column, value in filters.items() if value is not None}
        conditions = [f"{column} = ?" for column in (self.scope_column, *wanted)]
        values: list[str | float] = [scope, *wanted.values()]
        ascending = request.order == "asc"
        for name, cursor, behind in (("after", request.after, True), ("before", request.before, False)):
            if cursor is None:
                continue
            place = connection.execute(
                f"SELECT created_at, sequence FROM {self.table}"
                f" WHERE {self.scope_column} = ? AND {self.id_column} = ?",
                (scope, cursor),
            ).fetchone()
            if place is None:
                raise NotFound(
                    f"{name}: {cursor[:80]!r} is not in this list; start again without it", param=name
                )
            conditions.append(f"(created_at, sequence) {'>' if ascending == behind else '<'} (?, ?)")
            values += [place["created_at"], place["sequence"]]
        # A page that is anchored at its end only is read from there, backwards.
        backwards = request.before is not None and request.after is None
        direction = "ASC" if ascending != backwards else "DESC"
        rows = connection.execute(
            f"SELECT * FROM {self.table} WHERE {' AND '.join(conditions)}"
            f" ORDER BY created_at {direction}, sequence {direction} LIMIT ?",
            (*values, min(request.limit, 2**31) + 1),
        ).fetchall()
        page = [self.read(row) for row in rows[: request.limit]]
        return (page[::-1] if backwards else page), len(rows) > request.limit
