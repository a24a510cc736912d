"""Search as a tenant may see it: authorized stores, live documents, attribute filters."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ray.serve.handle import DeploymentHandle

from mygo.api.service import Attributes, Retrieval
from mygo.config import Config
from mygo.errors import Unavailable
from mygo.filters import matches
from mygo.retrieval import SearchResult, Weights
from mygo.retrieval.recent import RecentResults
from mygo.retrieval.shard import Documents
from mygo.serve.calls import reply
from mygo.serve.retriever import Query, Retriever
from mygo.types import ContentHash, DocId, Reuse, ScoredPassage, StoreId, TenantId

logger = logging.getLogger(__name__)

Document = tuple[StoreId | None, DocId]


@dataclass(frozen=True, slots=True)
class Found:
    passages: list[ScoredPassage]
    """Best first."""
    attributes: Mapping[Document, Attributes] = field(default_factory=dict)
    """Of the files that the passages are from, and of others that were asked about; only of live ones."""
    degraded: tuple[str, ...] = ()
    reuse: tuple[Reuse | None, ...] = ()
    """What each store that was searched allows; None: it has no say."""
    is_final: bool = True
    """False for what a search has found so far."""
    is_recent: bool = False
    """Kept of an earlier search: nothing was searched."""

    def attributes_of(self, scored: ScoredPassage) -> Attributes:
        """Empty for a passage that was not among the results (say, of an earlier turn)."""
        return self.attributes.get(_document(scored), {})


LATE = "a wider search was late: there may be more passages than these"


@dataclass(frozen=True, slots=True)
class _Look:
    """One round of a search. A filter that leaves too little of it makes a wider one follow."""

    query: Query
    k: int
    position: int
    """Of the journal when the search began."""
    without: tuple[int, ...] = ()
    """Shards that an earlier round has lost: each costs a search its time limit once."""
    ends_s: float | None = None
    """By the event loop's clock, when all wider rounds together must have ended; None in the first one."""

    @property
    def is_wider(self) -> bool:
        return self.ends_s is not None

    def left_s(self) -> float | None:
        """None: as long as any search."""
        return None if self.ends_s is None else self.ends_s - asyncio.get_running_loop().time()


class Searcher:
    """Retrieval plus what only the catalog knows: who may read, what was deleted, attributes."""

    def __init__(
        self,
        config: Config,
        librarian: DeploymentHandle,
        embedder: DeploymentHandle,
        shards: Sequence[DeploymentHandle],
        reranker: DeploymentHandle | None = None,
    ) -> None:
        self._librarian = librarian
        retrieving = config.retrieval
        self._retriever = Retriever(embedder, shards, retrieving.timeout_s, retrieving.recent_results)
        self._recent = RecentResults(retrieving.recent_results, retrieving.recent_similarity)
        self._staged = config.retrieval.stage_s > 0
        self._reranker = reranker
        self._timeout_s = retrieving.timeout_s
        self._candidates = config.retrieval.reranker_candidates

    async def search(
        self, tenant: TenantId, query: str, retrieval: Retrieval, also: Sequence[Document] = ()
    ) -> Found:
        """At most ``top_k`` distinct texts, best first; of equal ones the first that may be shown. ``also``:
        documents whose attributes are wanted, too.

        Raises NotFound for a store that is not the tenant's.
        """
        async with contextlib.aclosing(self.stages(tenant, query, retrieval, also, staged=False)) as stages:
            async for found in stages:
                if found.is_final:
                    return found
        raise AssertionError("a search ended without a final stage")

    async def stages(
        self,
        tenant: TenantId,
        query: str,
        retrieval: Retrieval,
        also: Sequence[Document] = (),
        *,
        staged: bool = True,
    ) -> AsyncGenerator[Found, None]:
        """``search`` in stages: what may be shown of what was found so far; the last one ``is_final``.

        Closing the iterator ends the search. Not ``staged``, or with ``retrieval.stage_s`` of 0, shards are
        asked in one go, which costs them less. A reranker has its say in the last stage only.
        """
        if self._reranker is None or not retrieval.rerank:
            async with contextlib.aclosing(self._stages(tenant, query, retrieval, also, staged)) as stages:
                async for found in stages:
                    yield found
            return
        candidates = replace(retrieval, top_k=max(retrieval.top_k, self._candidates), min_score=None)
        async with contextlib.aclosing(self._stages(tenant, query, candidates, also, staged)) as stages:
            async for found in stages:
                if found.is_final:
                    yield await self._reranked(self._reranker, query, found, retrieval)
                else:
                    yield replace(found, passages=found.passages[: retrieval.top_k])

    async def _reranked(
        self, reranker: DeploymentHandle, query: str, found: Found, retrieval: Retrieval
    ) -> Found:
        texts = [scored.passage.text for scored in found.passages]
        try:
            async with asyncio.timeout(self._timeout_s):
                scores = await reply(reranker.scores.remote(query, texts), "reranker")
        except Exception as error:
            logger.warning("the reranker has no say in a search: %r", error)
            why = str(error) if isinstance(error, Unavailable) else "the reranker failed or was late"
            degraded = (*found.degraded, f"{why}: passages are in the order in which they were found")
            kept = [scored for scored in found.passages if not _below(scored, retrieval)]
            return replace(found, passages=kept[: retrieval.top_k], degraded=degraded)
        rescored = [
            ScoredPassage(scored.passage, score)
            for scored, score in zip(found.passages, scores, strict=True)
            if retrieval.min_score is None or score >= retrieval.min_score
        ]
        rescored.sort(key=lambda scored: -scored.score)
        return replace(found, passages=rescored[: retrieval.top_k])

    async def _stages(
        self, tenant: TenantId, query: str, retrieval: Retrieval, also: Sequence[Document], staged: bool
    ) -> AsyncGenerator[Found, None]:
        (reuse, position), vector = await asyncio.gather(
            reply(self._librarian.authorize.remote(tenant, retrieval.store_ids), "librarian"),
            self._retriever.embed(tenant, query),
        )
        weights = Weights(retrieval.embedding_weight, retrieval.text_weight)
        asked_for = Query(query, vector, retrieval.store_ids, weights)
        look = _Look(asked_for, retrieval.top_k, position)
        narrowing = retrieval.filters
        narrower: Found | None = None
        while True:
            try:
                async with contextlib.aclosing(self._results(tenant, look, staged)) as results:
                    async for result in results:
                        found = await self._found(result, retrieval, tuple(reuse), also)
                        # filters and copies thin it out: ask for more until it is full or there is no more
                        exhausted = len(result.passages) < look.k or _below(result.passages[-1], retrieval)
                        enough = len(found.passages) >= retrieval.top_k or exhausted
                        lost_more = len(result.lost_shards) > len(look.without)
                        if narrower is not None and result.is_final and lost_more:
                            yield replace(narrower, is_final=True, degraded=found.degraded)
                            return
                        yield replace(found, is_final=result.is_final and enough)
            except Unavailable:
                if narrower is None:
                    raise
                yield replace(narrower, is_final=True, degraded=(*narrower.degraded, LATE))
                return
            if enough:
                return
            if narrower is None:
                look = replace(look, ends_s=asyncio.get_running_loop().time() + self._timeout_s)
            narrower, look = found, replace(look, without=result.lost_shards)
            if narrowing is not None:  # the filter leaves little: look only there, if it is little enough
                documents = await reply(
                    self._librarian.matching.remote(tenant, retrieval.store_ids, narrowing), "librarian"
                )
                narrowing = None
                if documents is not None:
                    look = replace(look, query=replace(look.query, documents=documents))
                    continue
            look = replace(look, k=4 * look.k)

    async def _results(
        self, tenant: TenantId, look: _Look, staged: bool
    ) -> AsyncGenerator[SearchResult, None]:
        query, k = look.query, look.k
        # of the tenant too: a public store must not show, by how fast it answers, what others ask
        among = None if query.documents is None else _digest(query.documents)
        scope = (tenant, query.store_ids, query.weights, k, among)
        known = self._recent.find(look.position, scope, query.text, query.vector)
        if known is not None:
            yield replace(known, is_recent=True)
            return
        if not (staged and self._staged) or query.documents is not None or look.is_wider:
            result = await self._retriever.search(query, k, without=look.without, within_s=look.left_s())
            self._recent.remember(look.position, scope, query.text, query.vector, result)
            yield result
            return
        async with contextlib.aclosing(self._retriever.stages(query, k)) as results:
            async for result in results:
                self._recent.remember(look.position, scope, query.text, query.vector, result)
                yield result

    async def _found(
        self,
        result: SearchResult,
        retrieval: Retrieval,
        reuse: tuple[Reuse | None, ...],
        also: Sequence[Document],
    ) -> Found:
        """What may be shown of a result, as of now."""
        documents = list(dict.fromkeys([*map(_document, result.passages), *also]))
        described = await reply(self._librarian.describe.remote(documents), "librarian")
        live = {
            document: attributes
            for document, attributes in zip(documents, described, strict=True)
            if attributes is not None
        }
        passing = {
            document
            for document, attributes in live.items()
            if retrieval.filters is None or matches(retrieval.filters, attributes)
        }
        kept = _distinct_texts(
            scored
            for scored in result.passages
            if _document(scored) in passing and not _below(scored, retrieval)
        )
        degraded = tuple(
            f"retrieval shard {shard} did not answer, or not with all it has"
            for shard in result.missing_shards
        )
        return Found(kept[: retrieval.top_k], live, degraded, reuse, result.is_final, result.is_recent)


def _digest(documents: Documents) -> bytes:
    """Takes the place of thousands of names."""
    named = json.dumps({store_id: sorted(held) for store_id, held in documents.items()}, sort_keys=True)
    return hashlib.blake2b(named.encode(), digest_size=16).digest()


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
