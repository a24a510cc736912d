"""What a search takes from the texts on disk: rows by their words, and the texts of what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from mygo.retrieval.contents import batches
from mygo.retrieval.nearest import SPARE_CANDIDATES, CheckCancelled
from mygo.retrieval.texts import PassageTexts
from mygo.types import Passage, ScoredPassage, StoreId

_TEXTS_AT_ONCE = 100
"""Read between two looks at whether anyone waits for them, while other searches wait: a millisecond."""
Places: TypeAlias = dict[int, tuple[StoreId, int]]
"""Where a passage that was found lies: by its identity, (store, row)."""


def places_of(store_id: StoreId, rows: Iterable[int], ranking: Iterable[ScoredPassage]) -> Places:
    return {id(scored.passage): (store_id, row) for row, scored in zip(rows, ranking, strict=True)}


def rows_by_words(
    texts: PassageTexts,
    store_id: StoreId,
    passages: Mapping[int, Passage],
    question: str,
    k: int,
    among: Sequence[int] | None,
    check_cancelled: CheckCancelled,
) -> list[tuple[int, float]]:
    """(row, BM25 score) of ``k`` distinct texts of documents at least, if there are so many: a document may
    repeat one.

    ``passages``: of the store, by row. ``among``: only these rows.
    """
    fetched = k + SPARE_CANDIDATES
    while True:
        check_cancelled()
        found = texts.search(store_id, question, fetched, among)
        # a row without a passage is of an update that failed after its texts were written
        known = [(row, score) for row, score in found if row in passages]
        distinct = {(passages[row].doc_id, passages[row].content_hash) for row, _ in known}
        if len(found) < fetched or len(distinct) >= k:
            return known
        fetched *= 4


def with_texts(
    texts: PassageTexts, ranking: Iterable[ScoredPassage], places: Places, check_cancelled: CheckCancelled
) -> tuple[ScoredPassage, ...]:
    whole: list[ScoredPassage] = []
    for part in batches(ranking, _TEXTS_AT_ONCE):
        check_cancelled()
        rows: dict[StoreId, list[int]] = {}
        for scored in part:
            store_id, row = places[id(scored.passage)]
            rows.setdefault(store_id, []).append(row)
        read = {store_id: texts.texts(store_id, of_store) for store_id, of_store in rows.items()}
        for scored in part:
            store_id, row = places[id(scored.passage)]
            whole.append(ScoredPassage(replace(scored.passage, text=read[store_id][row]), scored.score))
    return tuple(whole)
