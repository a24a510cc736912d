"""Search as a tenant may see it: authorized stores, live documents, attribute filters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ray.serve.handle import DeploymentHandle

from mygo.api.filters import matches
from mygo.api.service import Attributes, Retrieval
from mygo.config import Config
from mygo.serve.calls import reply
from mygo.serve.retriever import Retriever
from mygo.types import ContentHash, DocId, Reuse, ScoredPassage, StoreId, TenantId

Document = tuple[StoreId | None, DocId]


@dataclass(frozen=True, slots=True)
class Found:
    passages: list[ScoredPassage]
    """Best first."""
    attributes: Mapping[Document, Attributes] = field(default_factory=dict)
    """Of the files that the passages are from."""
    degraded: tuple[str, ...] = ()
    reuse: tuple[Reuse | None, ...] = ()
    """What each store that was searched allows; None: it has no say."""

    def attributes_of(self, scored: ScoredPassage) -> Attributes:
        """Empty for a passage that was not among the results (say, of an earlier turn)."""
        return self.attributes.get(_document(scored), {})


class Searcher:
    """Retrieval plus what only the catalog knows: who may read, what was deleted, attributes."""

    def __init__(
        self,
        config: Config,
        librarian: DeploymentHandle,
        embedder: DeploymentHandle,
        shards: Sequence[DeploymentHandle],
    ) -> None:
        self._librarian = librarian
        self._retriever = Retriever(embedder, shards, config.retrieval.timeout_s)

    async def search(self, tenant: TenantId, query: str, retrieval: Retrieval) -> Found:
        """At most ``top_k`` distinct texts, best first; of equal ones the first that may be shown.

        Raises NotFound for a store that is not the tenant's.
        """
        reuse, vector = await asyncio.gather(
            reply(self._librarian.authorize.remote(tenant, retrieval.store_ids), "librarian"),
            self._retriever.embed(query),
        )
        asked = retrieval.top_k
        while True:
            retrieved = await self._retriever.search(vector, retrieval.store_ids, asked)
            documents = list({_document(scored): None for scored in retrieved.passages})
            described = await reply(self._librarian.describe.remote(documents), "librarian")
            live = {
                document: attributes
                for document, attributes in zip(documents, described, strict=True)
                if attributes is not None
            }
            kept = _distinct_texts(
                scored
                for scored in retrieved.passages
                if _document(scored) in live and _wanted(scored, live[_document(scored)], retrieval)
            )
            # filters and copies thin the result out: ask for more until it is full or there is no more
            exhausted = len(retrieved.passages) < asked or _below(retrieved.passages[-1], retrieval)
            if len(kept) >= retrieval.top_k or exhausted:
                degraded = tuple(
                    f"retrieval shard {shard} did not answer" for shard in retrieved.missing_shards
                )
                return Found(kept[: retrieval.top_k], live, degraded, tuple(reuse))
            asked *= 4


def _document(scored: ScoredPassage) -> Document:
    return scored.passage.store_id, scored.passage.doc_id


def _distinct_texts(ranked: Iterable[ScoredPassage]) -> list[ScoredPassage]:
    """The first of each text. Only of what may be shown: a copy in another file has other attributes."""
    first: dict[ContentHash, ScoredPassage] = {}
    for scored in ranked:
        first.setdefault(scored.passage.content_hash, scored)
    return list(first.values())


def _below(scored: ScoredPassage, retrieval: Retrieval) -> bool:
    return retrieval.min_score is not None and scored.score < retrieval.min_score


def _wanted(scored: ScoredPassage, attributes: Attributes, retrieval: Retrieval) -> bool:
    if _below(scored, retrieval):
        return False
    return retrieval.filters is None or matches(retrieval.filters, attributes)
