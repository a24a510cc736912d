"""A graph of near neighbours (HNSW): the fastest search, the most memory, the slowest to build."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from mygo.retrieval.index import IndexKind, Partial, Rows, Scores, Structure, Vectors, best

_FAISS: Any = faiss  # its stubs lack what its Python layer adds
_MORE_CANDIDATES = 4
"""Times as many, when too many were forgotten ones."""
_FORGOTTEN_SHARE = 0.25
"""Of the graph's nodes: with more, searches pass too many in vain, and the graph is built anew."""


class HnswIndex:
    """FAISS cannot take nodes out of the graph: what is removed stays, and no search returns it."""

    kind = IndexKind.HNSW

    def __init__(self, graph: Any, *, ef_search: int, outgrown_below: int) -> None:
        """``graph``: an empty IndexHNSWFlat. ``ef_search``: candidates that a search keeps, at least ``k``.
        ``outgrown_below``: vectors below which an exact search is due."""
        self._graph: Any = graph
        self._ef_search = ef_search
        self._outgrown_below = outgrown_below
        # By node: nodes are in the order of their rows, so a node is found by bisection. A dead node that
        # was restored has the row of the live one before it, or -1.
        self._rows = np.empty(0, np.int64)
        self._live = np.empty(0, np.bool_)

    @classmethod
    def restored(cls, structure: Structure, rows: Rows, *, ef_search: int, outgrown_below: int) -> HnswIndex:
        """``rows``: new ids of the live vectors, rising."""
        graph = faiss.deserialize_index(structure["graph"])
        index = cls(graph, ef_search=ef_search, outgrown_below=outgrown_below)
        index._live = structure["live"].astype(np.bool_)
        before = np.cumsum(index._live)
        index._rows = np.concatenate([np.array([-1], np.int64), rows])[before]
        return index

    def __len__(self) -> int:
        return int(np.count_nonzero(self._live))

    def __repr__(self) -> str:
        return f"HnswIndex(vectors={len(self)}, forgotten={len(self._live) - len(self)})"

    def add(self, rows: Rows, vectors: Vectors) -> None:
        self._graph.add(vectors)
        self._rows = np.concatenate([self._rows, rows])
        self._live = np.concatenate([self._live, np.ones(len(rows), np.bool_)])

    def remove(self, rows: Rows) -> None:
        nodes = self._nodes(rows)
        assert np.array_equal(self._rows[nodes], rows) and self._live[nodes].all(), f"not in {self!r}: {rows}"
        self._live[nodes] = False

    def vectors(self, rows: Rows) -> Vectors:
        if len(rows) == 0:
            return np.empty((0, self._graph.d), np.float32)
        return np.asarray(self._graph.reconstruct_batch(self._nodes(rows)), np.float32)

    def search(self, vector: Vectors, k: int) -> tuple[Scores, Rows]:
        # FAISS would leave forgotten nodes out of the result by itself, and still let them fill the
        # candidates: where all of a topic was deleted, questions on it would end among those. So they are
        # found as any others, and there are more candidates until enough of them live.
        candidates = max(self._ef_search, k)
        enough = max(k, candidates // 2)
        while True:
            parameters = _FAISS.SearchParametersHNSW(efSearch=candidates)
            scores, nodes = self._graph.search(vector[np.newaxis, :], candidates, params=parameters)
            found = nodes[0] >= 0
            found[found] = self._live[nodes[0][found]]
            if np.count_nonzero(found) >= enough or candidates >= len(self._live):
                return best(scores[0][found], self._rows[nodes[0][found]], k)
            candidates = min(_MORE_CANDIDATES * candidates, len(self._live))

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]:
        """One stage: FAISS cannot stop in the graph and go on, and a search with fewer candidates before the
        full one costs too much. Of 10^5 vectors, 10 candidates instead of 64 take 0.3 of the time, and their
        best eight are the final ones for 0.63 of questions; 32 candidates take 0.56 for 0.91."""
        yield Partial(*self.search(vector, k), is_last=True)

    @property
    def outgrown(self) -> bool:
        """When too many nodes are forgotten, or so few are left that comparing all is as good."""
        forgotten = len(self._live) - len(self)
        return forgotten > _FORGOTTEN_SHARE * len(self._live) or 2 * len(self) < self._outgrown_below

    def structure(self) -> Structure | None:
        """With the vectors, which the graph cannot be searched without: forgotten ones are in it, too."""
        return {"graph": faiss.serialize_index(self._graph), "live": self._live}

    def _nodes(self, rows: Rows) -> Rows:
        return np.searchsorted(self._rows, rows)
