"""In which order documents stand in a prompt: as ranked, or down the path that is cached already.

Greedy walk: CacheWeaver (arXiv 2606.19667), algorithm 1. By itself it finds nothing until some order
was served once; popularity then gives everybody the same order to converge on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mygo.tree.keys import narrow, segment_key
from mygo.types import DomainTag, ScoredPassage, SegmentKey


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A retrieved passage with the ids of its text as it stands in a prompt."""

    scored: ScoredPassage
    token_ids: tuple[int, ...]

    @property
    def domain(self) -> DomainTag:
        return self.scored.passage.domain


@dataclass(frozen=True, slots=True)
class Path:
    """Where a prompt has got to: the last segment's key, and the narrowest domain so far."""

    key: SegmentKey
    domain: DomainTag

    def then(self, domain: DomainTag, token_ids: tuple[int, ...]) -> Path:
        """The path after a segment of ``domain``."""
        narrowed = narrow(self.domain, domain)
        return Path(segment_key(self.key, narrowed, token_ids), narrowed)


class DocumentOrder(Protocol):
    def __call__(self, ranked: Sequence[Document], start: Path) -> list[Document]:
        """A permutation of ``ranked`` (best first), to be laid out behind ``start``."""
        ...


def retrieval_order(ranked: Sequence[Document], start: Path) -> list[Document]:
    """As ranked."""
    return list(ranked)


@dataclass(frozen=True, slots=True)
class CacheOrder:
    """Repeatedly append the remaining document that is cached most behind those chosen so far.

    Ties go to the more popular, then to the better ranked. When none is cached, the rest follows by
    popularity, then rank. Looks up at most k (k + 1) / 2 keys for k documents.
    """

    cachedness: Callable[[SegmentKey], float]
    """How much that segment is cached, in any unit; 0 if nowhere."""
    popularity: Callable[[ScoredPassage], float] = lambda scored: 0.0

    def __call__(self, ranked: Sequence[Document], start: Path) -> list[Document]:
        rest = sorted(ranked, key=lambda document: -self.popularity(document.scored))  # stable: then rank
        chosen: list[Document] = []
        path = start
        while rest:
            steps = [path.then(document.domain, document.token_ids) for document in rest]
            cached = [self.cachedness(step.key) for step in steps]
            best = max(range(len(rest)), key=cached.__getitem__)  # the first of equals
            if cached[best] == 0:
                break
            chosen.append(rest.pop(best))
            path = steps[best]
        return chosen + rest
