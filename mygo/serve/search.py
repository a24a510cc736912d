"""Search as a tenant may see it: authorized stores, live documents, attribute filters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from mygo.api.filters import matches
from mygo.api.service import Attributes, Retrieval
from mygo.config import Config
from mygo.serve.calls import reply
from mygo.serve.retriever import Retriever
from mygo.types import ScoredPassage, TenantId


@dataclass(frozen=True, slots=True)
class Found:
    passages: list[ScoredPassage]
    attributes: list[Attributes]
    """Of the passages' files, in the same order."""
    degraded: tuple[str, ...]


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
        """At most ``top_k`` passages, best first. Raises NotFound for a store that is not the tenant's."""
        _, vector = await asyncio.gather(
            reply(self._librarian.authorize.remote(tenant, retrieval.store_ids), "librarian"),
            self._retriever.embed(query),
        )
        asked = retrieval.top_k
        while True:
            retrieved = await self._retriever.search(vector, retrieval.store_ids, asked)
            documents = [(p.passage.store_id, p.passage.doc_id) for p in retrieved.passages]
            described = await reply(self._librarian.describe.remote(documents), "librarian")
            kept = [
                (scored, attributes)
                for scored, attributes in zip(retrieved.passages, described, strict=True)
                if attributes is not None and _wanted(scored, attributes, retrieval)
            ]
            # filters thin the result out: ask for more until it is full or there is no more
            if len(kept) >= retrieval.top_k or len(retrieved.passages) < asked:
                kept = kept[: retrieval.top_k]
                return Found([s for s, _ in kept], [a for _, a in kept], retrieved.degraded)
            asked *= 4


def _wanted(scored: ScoredPassage, attributes: Attributes, retrieval: Retrieval) -> bool:
    if retrieval.min_score is not None and scored.score < retrieval.min_score:
        return False
    return retrieval.filters is None or matches(retrieval.filters, attributes)
