"""Vectors like those of texts: topics, documents in them, passages in documents. Synthetic, and said so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mygo.retrieval.index import Vectors

DIMENSIONS = 384
TOPICS = 2_000
PASSAGES_PER_DOCUMENT = 10
DOCUMENT_SPREAD = 0.7
PASSAGE_SPREAD = 0.6
QUESTION_SPREAD = 0.6
"""Of a question around the passage that answers it."""
_AT_ONCE = 100_000


def write(path: Path, count: int, seed: int) -> None:
    """float32 [count, DIMENSIONS], unit rows. The file appears whole."""
    unfinished = path.with_suffix(".partial")
    with unfinished.open("wb") as file:
        for part in _parts(count, seed):
            file.write(part.tobytes())
    unfinished.replace(path)


def mapped(path: Path, count: int) -> Vectors:
    """As written, without taking memory."""
    return np.memmap(path, np.float32, "r", shape=(count, DIMENSIONS))


def questions(vectors: Vectors, count: int, seed: int) -> Vectors:
    """[count, DIMENSIONS]: each near a passage drawn at random."""
    rng = np.random.default_rng([seed, 1])
    asked = vectors[rng.integers(0, len(vectors), count)]
    return _unit(asked + QUESTION_SPREAD * _noise(rng, count))


def _parts(count: int, seed: int) -> Iterator[Vectors]:
    rng = np.random.default_rng([seed, 0])
    topics = _unit(_noise(rng, TOPICS))
    popularity = 1.0 / np.arange(1, TOPICS + 1)
    popularity /= popularity.sum()
    for start in range(0, count, _AT_ONCE):
        wanted = min(_AT_ONCE, count - start)
        documents = -(-wanted // PASSAGES_PER_DOCUMENT)
        topic = topics[rng.choice(TOPICS, documents, p=popularity)]
        document = _unit(topic + DOCUMENT_SPREAD * _noise(rng, documents))
        passages = np.repeat(document, PASSAGES_PER_DOCUMENT, axis=0)[:wanted]
        yield _unit(passages + PASSAGE_SPREAD * _noise(rng, wanted))


def _noise(rng: np.random.Generator, count: int) -> Vectors:
    """[count, DIMENSIONS] of mean length 1. Real embeddings vary along few directions: the variance of
    direction i falls as 1 / i."""
    deviations = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.5
    deviations /= np.linalg.norm(deviations)
    return rng.standard_normal((count, DIMENSIONS), np.float32) * deviations


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
