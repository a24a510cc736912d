"""Small corpora and a naive search, shared by this room's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import faiss
import numpy as np

from mygo.config_retrieval import RetrievalConfig
from mygo.retrieval.index import Vectors
from mygo.types import ContentHash, DocId, Passage, ScoredPassage, StoreId

DIMENSIONS = 8

faiss.omp_set_num_threads(1)  # on shared cores, waiting threads spin for longer than they work


EXACT_ONLY = 10**9


def shard_config(shards: int = 1, **settings: Any) -> RetrievalConfig:
    """Exact search unless ``approximate_from_vectors`` says otherwise, and then of all lists."""
    defaults = {"approximate_from_vectors": EXACT_ONLY, "ivf_probes": 10**6}
    return RetrievalConfig(shards=shards, **{**defaults, **settings})


def sha(text: str) -> ContentHash:
    return ContentHash(hashlib.sha256(text.encode()).hexdigest())


def passage(doc: str, index: int, text: str, store: str = "vs_a") -> Passage:
    return Passage(DocId(doc), index, text, sha(text), StoreId(store), f"{doc}.txt")


def passages(doc: str, texts: Sequence[str], store: str = "vs_a") -> list[Passage]:
    return [passage(doc, index, text, store) for index, text in enumerate(texts)]


def embed(texts: Sequence[str], dimensions: int = DIMENSIONS) -> Vectors:
    """A unit vector for each text; texts that differ only after a ``|`` get equal vectors."""
    vectors = np.empty((len(texts), dimensions), np.float32)
    for row, text in enumerate(texts):
        seed = int(sha(text.split("|")[0])[:8], 16)
        vector = np.random.default_rng(seed).standard_normal(dimensions)
        vectors[row] = vector / np.linalg.norm(vector)
    return vectors


def naive_search(held: Iterable[Passage], query: Vectors, k: int) -> list[ScoredPassage]:
    """Score everything, sort, keep the first of each text of a document."""
    scored = [
        ScoredPassage(p, float((embed([p.text])[0].astype(np.float64) * query).sum().clip(-1, 1)))
        for p in held
    ]
    scored.sort(key=lambda s: (-s.score, s.passage.doc_id, s.passage.index, s.passage.store_id or ""))
    seen: set[tuple[StoreId | None, DocId, ContentHash]] = set()
    distinct = []
    for s in scored:
        text_of_document = (s.passage.store_id, s.passage.doc_id, s.passage.content_hash)
        if text_of_document not in seen:
            seen.add(text_of_document)
            distinct.append(s)
    return distinct[:k]
