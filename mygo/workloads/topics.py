"""Which documents a request retrieves: topics that people ask about, each with a ranked list of documents.

Drawing k documents independently is wrong: it gives many chunk hits and hardly any equal prefix, while
real retrieval returns the same documents together. So a request draws a topic from a Zipf law; the topic
has a fixed ranked list of candidates; the request gets the best k of them with rank noise, because two
questions about one thing are not the same question.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from random import Random

from mygo.errors import BadTrace

_NOISE_SAMPLES = 20_000


@dataclass(frozen=True, slots=True)
class Zipf:
    """Rank r (from 1) has a weight of (r + offset) ** -exponent (Zipf-Mandelbrot).

    ``exponent`` 0 is uniform. ``offset`` flattens the head: in RAGPulse the best-known documents are
    nearly equally popular, and behind them popularity falls faster than Zipf's.
    """

    exponent: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.exponent >= 0:
            raise BadTrace(f"exponent: must be 0 (uniform) or above, not {self.exponent}")
        if not self.offset >= 0:
            raise BadTrace(f"offset: must be 0 or above, not {self.offset}")

    def sample(self, rng: Random, ranks: int) -> int:
        """A 0-based rank below ``ranks``."""
        weights = self.cumulative(ranks)
        return bisect_left(weights, (1.0 - rng.random()) * weights[-1])

    def cumulative(self, ranks: int) -> list[float]:
        """Weight of the ranks up to each one. Shared by all callers: not to be changed."""
        return _cumulative(self, ranks)


@lru_cache(maxsize=16)
def _cumulative(law: Zipf, ranks: int) -> list[float]:
    return list(accumulate((rank + law.offset) ** -law.exponent for rank in range(1, ranks + 1)))


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How requests come to their documents."""

    corpus_documents: int
    topics: int
    """Things that people ask about."""
    documents: int
    """Documents per request, k."""
    candidates: int
    """Documents of a topic, best first; k of them are retrieved. Two to three times k is plausible."""
    topic_law: Zipf
    """How popularity falls from topic to topic."""
    document_law: Zipf = Zipf(0.0)
    """How a document's chance to be a candidate falls along the corpus: topics share documents."""
    swap_probability: float = 0.3
    """That neighbours in the ranking change places, for each pair."""
    replace_probability: float = 0.3
    """That a document of the tail gives way to a candidate that was not among the best k."""
    replace_documents: int = 1
    """Length of that tail, from the end of the k."""

    def __post_init__(self) -> None:
        for name in ("corpus_documents", "topics", "documents"):
            if getattr(self, name) < 1:
                raise BadTrace(f"{name}: must be at least 1, not {getattr(self, name)}")
        if not self.documents <= self.candidates <= self.corpus_documents:
            raise BadTrace(
                f"candidates: {self.candidates} must be between documents ({self.documents}) and "
                f"corpus_documents ({self.corpus_documents})"
            )
        for name in ("swap_probability", "replace_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadTrace(f"{name}: must be between 0 and 1, not {getattr(self, name)}")
        if not 0 <= self.replace_documents <= self.documents:
            raise BadTrace(
                f"replace_documents: {self.replace_documents} must be between 0 and documents "
                f"({self.documents})"
            )


class Corpus:
    """The topics of one corpus. Each topic's candidates depend on (seed, topic) alone, and are made when
    the topic first comes up, so a corpus of millions costs what is asked of it."""

    def __init__(self, retrieval: Retrieval, seed: str) -> None:
        self._retrieval = retrieval
        self._seed = seed
        self._candidates: dict[int, tuple[int, ...]] = {}

    def candidates(self, topic: int) -> tuple[int, ...]:
        """Distinct documents (0-based), best first."""
        if topic not in self._candidates:
            rng = Random(f"{self._seed}/topic/{topic}")
            law, corpus = self._retrieval.document_law, self._retrieval.corpus_documents
            self._candidates[topic] = _distinct(
                (law.sample(rng, corpus) for _ in range(64 * self._retrieval.candidates)),
                self._retrieval.candidates,
                corpus,
            )
        return self._candidates[topic]

    def retrieve(self, topic: int, rng: Random) -> tuple[int, ...]:
        """The documents of one request about ``topic``, best first."""
        candidates = self.candidates(topic)
        return tuple(candidates[rank] for rank in noisy_ranks(self._retrieval, rng))


def noisy_ranks(law: Retrieval, rng: Random) -> list[int]:
    """Which of a topic's candidates one request gets, best first, as their 0-based ranks."""
    best, rest = list(range(law.documents)), list(range(law.documents, law.candidates))
    for index in range(len(best) - 1):
        if rng.random() < law.swap_probability:
            best[index], best[index + 1] = best[index + 1], best[index]
    for index in range(len(best) - law.replace_documents, len(best)):
        if rest and rng.random() < law.replace_probability:
            best[index] = rest.pop(rng.randrange(len(rest)))
    return best


def top_shares_by_law(law: Retrieval, seed: int, shares: Iterable[float]) -> dict[float, float]:
    """Share of accesses that go to the x most popular documents of the corpus, for each share x of it.

    That is expected of endless requests, while ``statistics.describe`` counts one trace: with fewer
    accesses than documents a count says that few documents have nearly all, whatever the law. Exact but for
    the rank noise, which is sampled once for all topics.
    """
    rng = Random(f"{seed}/law")
    drawn = [rank for _ in range(_NOISE_SAMPLES) for rank in noisy_ranks(law, rng)]
    by_rank = [drawn.count(rank) / len(drawn) for rank in range(law.candidates)]
    cumulative = law.topic_law.cumulative(law.topics)
    corpus = Corpus(law, f"{seed}/public")
    popularity = [0.0] * law.corpus_documents
    for topic, (below, weight) in enumerate(pairwise([0.0, *cumulative])):
        for rank, document in enumerate(corpus.candidates(topic)):
            popularity[document] += (weight - below) / cumulative[-1] * by_rank[rank]
    popularity.sort(reverse=True)
    return {share: sum(popularity[: round(law.corpus_documents * share)]) for share in shares}


def _distinct(draws: Iterable[int], count: int, corpus: int) -> tuple[int, ...]:
    """The first ``count`` different draws; if the law is so skewed that these do not come, the most
    popular documents that are missing."""
    found: dict[int, None] = {}
    for draw in draws:
        found[draw] = None
        if len(found) == count:
            return tuple(found)
    for document in range(corpus):
        found[document] = None
        if len(found) == count:
            break
    return tuple(found)
