"""How results of a real index change from stage to stage, put onto the documents of a trace."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from benchmarks.retrieval_index import vectors
from benchmarks.speculation import STAGES
from mygo.config_retrieval import RetrievalConfig
from mygo.retrieval.index import VectorIndex, Vectors
from mygo.retrieval.kinds import IndexBuilder
from mygo.workloads.trace import TextId, Trace, TraceRequest

RESULTS = 32
"""More than any request of the traces has documents."""
_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Patterns:
    """``rows[query][stage]``: what a query of the index had found after each stage, nearest first."""

    rows: tuple[tuple[tuple[int, ...], ...], ...]

    def stages(
        self, request: TraceRequest, others: Sequence[TextId], retrieval_s: float, staged_cost: float
    ) -> list[tuple[float, tuple[TextId, ...]]]:
        """(seconds since arrival, documents) of each stage, the last with the request's own.

        What the query found in the end stands for these, in their order; what it found besides, for some of
        ``others``. Stages take equally long; together ``staged_cost`` times ``retrieval_s``.
        """
        found = self.rows[request.number % len(self.rows)]
        wanted = len(request.documents)
        final = dict(zip(found[-1][:wanted], request.documents, strict=False))
        rng = random.Random(request.number)
        spare = [
            text
            for text in rng.sample(others, min(len(others), 4 * wanted + 8))
            if text not in final.values()
        ]
        shown: list[tuple[float, tuple[TextId, ...]]] = []
        wrong: dict[int, TextId] = {}
        for number, rows in enumerate(found, 1):
            documents = []
            for row in rows[:wanted]:
                if row not in final and row not in wrong:
                    wrong[row] = spare[len(wrong) % len(spare)]
                documents.append(final.get(row) or wrong[row])
            at_s = retrieval_s * staged_cost * number / len(found)
            shown.append((at_s, tuple(dict.fromkeys(documents))))
        return [*shown[:-1], (shown[-1][0], request.documents)]


def searched(count: int, queries: int, seed: int) -> Patterns:
    """Ask an IVF index, with the shipped settings, over ``count`` synthetic vectors, in ``STAGES`` stages."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "vectors.f32"
        vectors.write(path, count, seed)
        data = np.ascontiguousarray(vectors.mapped(path, count))
        asked = vectors.questions(data, queries, seed)
        config = RetrievalConfig(approximate_from_vectors=count)  # a list even if there are few
        builder = IndexBuilder(vectors.DIMENSIONS, config, Path(name))
        chosen = np.random.default_rng(seed).permutation(count)[: builder.training_vectors(count)]
        index = builder.built(data[np.sort(chosen)], count)
        for start in range(0, count, _AT_ONCE):
            part = data[start : start + _AT_ONCE]
            index.add(np.arange(start, start + len(part), dtype=np.int64), part)
        faiss.omp_set_num_threads(1)
        return Patterns(tuple(_stages(index, question) for question in asked))


def _stages(index: VectorIndex, question: Vectors) -> tuple[tuple[int, ...], ...]:
    parts = list(index.search_staged(question, RESULTS, 1e-9))  # in stages as small as there are
    assert len(parts) >= STAGES, f"{len(parts)} stages"
    chosen = [parts[len(parts) * number // STAGES - 1] for number in range(1, STAGES + 1)]
    return tuple(tuple(int(row) for row in part.rows) for part in chosen)


def documents_of(trace: Trace) -> list[TextId]:
    """All that its requests retrieve, sorted."""
    return sorted({text for request in trace.requests for text in request.documents})
