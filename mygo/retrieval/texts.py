"""The texts of passages, on disk, found again by row or by the words that they share with a question.

BM25 is that of SQLite's full-text index (FTS5).
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from mygo.types import StoreId

_MOST_WORDS = 64
"""Of a question. The longest are kept: they are the rarest as a rule."""
_LONGEST_WORD_CHARS = 64
"""What is longer is no word that anyone looks for, and the tokenizer may make a long phrase of it."""
_WORD = re.compile(r"[^\W_]+")
"""Without underscores: for the tokenizer they separate words, so that `a_a_a` would be a phrase of three."""
_COMMON = {
    "a", "about", "an", "and", "are", "as", "at", "be", "by", "can", "did", "do", "does", "for", "from",
    "had", "has", "have", "how", "i", "in", "is", "it", "its", "many", "much", "of", "on", "or", "that",
    "the", "their", "them", "there", "they", "this", "to", "was", "were", "what", "when", "where",
    "which", "who", "whom", "whose", "why", "will", "with", "you", "your",
}  # fmt: skip
"""English words that say nothing about a passage. BM25 gives them next to no weight anyway; left out, they
spare the reading of nearly every passage's entry."""


class PassageTexts:
    """One table per store, in a file without a name: the system takes it back when the process ends.

    Thread-safe; calls wait for one another.
    """

    def __init__(self, folder: Path | None, *, by_words: bool) -> None:
        """``folder``: on a drive with room for all texts; None for the system's temporary folder.

        ``by_words``: whether ``search`` is wanted; the index for it takes as much room again.
        """
        self._by_words = by_words
        self._calls = threading.Lock()
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".sqlite3") as file:
            self._database = sqlite3.connect(file.name, check_same_thread=False, isolation_level=None)
            # nothing outlives the process, so nothing needs to be safe from its end
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = MEMORY")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("CREATE TABLE opened (x)")
        self._tables: dict[StoreId, str] = {}
        self._made = 0

    def add(self, store_id: StoreId, texts: Iterable[tuple[int, str]]) -> None:
        """(row, text) each; the rows must be new."""
        with self._calls:
            with self._database:
                self._database.execute("BEGIN")
                table = self._tables.get(store_id) or self._make()
                self._database.executemany(f"INSERT INTO {table} (rowid, text) VALUES (?, ?)", texts)
            self._tables[store_id] = table  # a table that was rolled back must not be found

    def remove(self, store_id: StoreId, rows: Iterable[int]) -> None:
        """Rows that are not there are ignored."""
        with self._calls, self._database:
            if table := self._tables.get(store_id):
                self._database.execute("BEGIN")
                self._database.executemany(f"DELETE FROM {table} WHERE rowid = ?", ((row,) for row in rows))

    def drop(self, store_id: StoreId) -> None:
        """One that is not there is ignored."""
        with self._calls:
            if table := self._tables.get(store_id):
                self._database.execute(f"DROP TABLE {table}")
                del self._tables[store_id]

    def texts(self, store_id: StoreId, rows: Iterable[int]) -> dict[int, str]:
        """The texts of rows that are there."""
        found: dict[int, str] = {}
        with self._calls:
            if table := self._tables.get(store_id):
                query = f"SELECT rowid, text FROM {table} WHERE rowid IN (SELECT value FROM json_each(?))"
                found.update(self._database.execute(query, (json.dumps(list(rows)),)))
        return found

    def search(
        self, store_id: StoreId, question: str, k: int, among: Sequence[int] | None = None
    ) -> list[tuple[int, float]]:
        """(row, BM25 score, higher is better) of the best ``k`` passages that have any of the words.

        ``among``: only these rows, with the scores that they have in the whole store. Reads the entry of each
        word: many rows have a common one, and cost time.
        """
        words = _words(question)
        with self._calls:
            table = self._tables.get(store_id)
            if table is None or not words or not self._by_words:
                return []
            matching = " OR ".join(f'"{word}"' for word in words)
            if among is None:
                query = f"SELECT rowid, -rank FROM {table} WHERE {table} MATCH ? ORDER BY rank, rowid LIMIT ?"
                found: list[tuple[int, float]] = self._database.execute(query, (matching, k)).fetchall()
                return found
            # With the plus, the words are looked up once and not for each row; the score, which `rank` would
            # be for every row that has a word, is computed only of those that are wanted.
            query = (
                f"SELECT rowid, -bm25({table}) AS score FROM {table} WHERE {table} MATCH ?"
                " AND +rowid IN (SELECT value FROM json_each(?)) ORDER BY score DESC, rowid LIMIT ?"
            )
            return self._database.execute(query, (matching, json.dumps(among), k)).fetchall()

    def _make(self) -> str:
        self._made += 1
        table = f"store_{self._made}"
        if self._by_words:
            words = "tokenize = 'porter unicode61 remove_diacritics 2'"
            self._database.execute(f"CREATE VIRTUAL TABLE {table} USING fts5 (text, {words})")
        else:
            self._database.execute(f"CREATE TABLE {table} (rowid INTEGER PRIMARY KEY, text TEXT)")
        return table


def _words(question: str) -> Sequence[str]:
    whole = dict.fromkeys(_WORD.findall(question.lower()))
    words = [word for word in whole if len(word) <= _LONGEST_WORD_CHARS]
    telling = [word for word in words if word not in _COMMON] or words
    return sorted(telling, key=len, reverse=True)[:_MOST_WORDS]
