"""Which files have the attributes that a filter wants: an index of attributes, and questions to it.

The index only narrows down: what it gives is looked at again by ``filters.matches``, which alone says what
a filter means. So it may hold numbers rounded, and nothing is asked of it for ``ne`` and ``nin``, which most
files pass.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from mygo.corpus.records import Attributes
from mygo.filters import Comparison, Filter, Scalar, matches
from mygo.types import DocId, StoreId

_RANGES: Final = {"gt": ">=", "gte": ">=", "lt": "<=", "lte": "<="}
_LEAST_INT, _GREATEST_INT = -(2**63), 2**63 - 1
_PARTS: Final = 256
"""Comparisons of a filter, or values of one, that are looked up: each costs a look-up, whatever it finds."""
_READS: Final = 8
"""Entries of the index that are read for a filter at most, as a multiple of the files that it may leave."""
_FIRST_LOOK: Final = 64
"""Parts of an ``and`` may leave this much less at a first look: many wide ones must not use up what may be
read before the narrow one among them is found."""
_ROWS_AT_ONCE: Final = 500

_TABLE = (
    "CREATE TABLE file_attributes (store_id TEXT NOT NULL, key BLOB NOT NULL, kind TEXT NOT NULL,"
    " value NOT NULL, file INTEGER NOT NULL REFERENCES store_files (sequence) ON DELETE CASCADE,"
    " PRIMARY KEY (store_id, key, kind, value, file)) WITHOUT ROWID",
    "CREATE INDEX file_attributes_by_file ON file_attributes (file)",
)


def create_index(connection: sqlite3.Connection) -> None:
    """Make the table, and fill it from the files that are attached already."""
    for statement in _TABLE:
        connection.execute(statement)
    rows = connection.execute(
        "SELECT store_id, file_id, attributes FROM store_files WHERE attributes != '{}'"
    ).fetchall()
    for row in rows:
        index_attributes(connection, row["store_id"], row["file_id"], json.loads(row["attributes"]))


def index_attributes(
    connection: sqlite3.Connection, store_id: StoreId, file_id: DocId, attributes: Attributes
) -> None:
    """Put these in place of what the index has of an attached file. One that is detached leaves by itself."""
    (file,) = connection.execute(
        "SELECT sequence FROM store_files WHERE store_id = ? AND file_id = ?", (store_id, file_id)
    ).fetchone()
    connection.execute("DELETE FROM file_attributes WHERE file = ?", (file,))
    connection.executemany(
        "INSERT INTO file_attributes (store_id, key, kind, value, file) VALUES (?, ?, ?, ?, ?)",
        [
            (store_id, _bytes(key), *_indexed(value), file)
            for key, value in attributes.items()
            if value == value  # NaN, of times when it was taken, equals nothing
        ],
    )


def attributes_of(connection: sqlite3.Connection, store_id: StoreId, file_id: DocId) -> Attributes | None:
    """None for a file that is not attached."""
    row = connection.execute(
        "SELECT attributes FROM store_files WHERE store_id = ? AND file_id = ?", (store_id, file_id)
    ).fetchone()
    return None if row is None else json.loads(row["attributes"])


def files_matching(
    connection: sqlite3.Connection,
    store_ids: Sequence[StoreId],
    condition: Filter,
    most_files: int,
    most_passages: int,
) -> dict[StoreId, list[DocId]] | None:
    """The files of the stores that pass; None if it would take too much to tell, or to search them.

    Reads 8 times ``most_files`` entries at most, however large the stores and the filter are.
    """
    candidates = _Candidates(connection, store_ids, _READS * most_files).of(condition, most_files)
    if candidates is None:
        return None
    found: dict[StoreId, list[DocId]] = {}
    passages = 0
    for row in _rows(connection, sorted(candidates)):
        if matches(condition, json.loads(row["attributes"])):
            found.setdefault(row["store_id"], []).append(row["file_id"])
            passages += row["chunks"]
    return found if passages <= most_passages else None


class _Candidates:
    """Asks the index. What it finds is all that passes and may be more."""

    def __init__(self, connection: sqlite3.Connection, store_ids: Sequence[StoreId], reads: int) -> None:
        """``reads``: entries that all look-ups together may read."""
        self._connection = connection
        self._reads = reads
        self._stores = json.dumps(list(store_ids))
        self._parts = _PARTS

    def of(self, condition: Filter, most: int) -> set[int] | None:
        """Files that may pass, by their ``sequence``; None if these are more than ``most``."""
        if isinstance(condition, Comparison):
            return self._compared(condition, most)
        if condition.operator == "and":
            narrowest = self._narrowest(condition.filters, most // _FIRST_LOOK)
            return self._narrowest(condition.filters, most) if narrowest is None else narrowest
        united: set[int] = set()
        for part in condition.filters:
            found = self.of(part, most)
            if found is None:
                return None
            united |= found
            if len(united) > most:
                return None
        return united

    def _narrowest(self, parts: Sequence[Filter], most: int) -> set[int] | None:
        """What passes all parts that leave no more than ``most``; None if there is no such part."""
        narrowest: set[int] | None = None
        for part in parts:
            # another part helps only if it leaves fewer
            found = self.of(part, most if narrowest is None else len(narrowest))
            if found is not None:
                narrowest = found if narrowest is None else narrowest & found
        return narrowest

    def _compared(self, comparison: Comparison, most: int) -> set[int] | None:
        if comparison.operator in ("ne", "nin"):
            return None
        operator = _RANGES.get(comparison.operator, "=")
        values = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
        files: set[int] = set()
        for value in values:
            self._parts -= 1
            if self._parts < 0:
                return None
            found = self._files(comparison.key, operator, value, min(most, self._reads) + 1)
            self._reads -= len(found)
            files.update(found)
            if self._reads < 0 or len(files) > most:
                return None
        return files

    def _files(self, key: str, operator: str, value: Scalar, most: int) -> list[int]:
        rows = self._connection.execute(
            "SELECT file FROM file_attributes WHERE store_id IN (SELECT value FROM json_each(?))"
            f" AND key = ? AND kind = ? AND value {operator} ? LIMIT ?",
            (self._stores, _bytes(key), *_indexed(value), most),
        )
        return [file for (file,) in rows]


def _rows(connection: sqlite3.Connection, files: Sequence[int]) -> Iterable[sqlite3.Row]:
    for start in range(0, len(files), _ROWS_AT_ONCE):
        yield from connection.execute(
            "SELECT store_id, file_id, chunks, attributes FROM store_files"
            " WHERE sequence IN (SELECT value FROM json_each(?))",
            (json.dumps(files[start : start + _ROWS_AT_ONCE]),),
        )


def _indexed(value: Scalar) -> tuple[str, bytes | float]:
    """(kind, value): equal values give equal ones, and a greater one of a kind none that is less."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, str):
        return "text", _bytes(value)
    if isinstance(value, int) and not _LEAST_INT <= value <= _GREATEST_INT:
        try:
            return "number", float(value)
        except OverflowError:
            return "number", math.inf if value > 0 else -math.inf
    return "number", value


def _bytes(text: str) -> bytes:
    """In the order of the text's characters, of whatever JSON can hold."""
    return text.encode("utf-8", "surrogatepass")
