"""The ingress: a question comes in; documents, a prompt, a worker and an answer go out.

``Ingress.answer`` is the read path, top to bottom. The HTTP shapes are in ``mygo/api``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from transformers import AutoTokenizer

from mygo import metrics
from mygo.api import create_app
from mygo.api.service import (
    Answer,
    AnswerHead,
    AnswerRequest,
    Hit,
    InlineDocument,
    Readiness,
    Retrieval,
    SearchResult,
)
from mygo.config import Config
from mygo.corpus import Delete
from mygo.errors import BadRequest
from mygo.prompt import (
    CacheOrder,
    ChatTemplate,
    Conversations,
    DocumentOrder,
    Earlier,
    Message,
    PromptBuilder,
    retrieval_order,
)
from mygo.serve.answer_stream import AnswerStream, Outcome
from mygo.serve.cache_report import CacheReport
from mygo.serve.calls import reply
from mygo.serve.cluster_status import ClusterStatus
from mygo.serve.corpus_service import CorpusService
from mygo.serve.dispatch import Dispatcher, Generation
from mygo.serve.instruments import Instruments, cluster_metrics
from mygo.serve.quality_report import QualityReport
from mygo.serve.search import Found, Searcher
from mygo.tree.keys import domain_salt, passage_tag, root_key
from mygo.types import (
    ContentHash,
    DocId,
    DomainTag,
    GenerateRequest,
    Passage,
    PrefillStats,
    Prompt,
    Reuse,
    Sampling,
    ScoredPassage,
    SegmentSpan,
    TenantId,
)

logger = logging.getLogger(__name__)

JOURNAL_WAIT_S = 5.0
INLINE_CHARS = 50_000
"""Requests up to this size are tokenized on the event loop (about 40 ms)."""
MESSAGE_CHARS = 100
"""What laying out a message costs beyond its text, in characters."""


@serve.ingress()
class Ingress(CorpusService):
    """Deployment; implements ``mygo.api.service.Service``."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self,
        config: Config,
        model_path: Path,
        workers: DeploymentHandle,
        directory: DeploymentHandle,
        librarian: DeploymentHandle,
        embedder: DeploymentHandle,
        shards: Sequence[DeploymentHandle],
        reranker: DeploymentHandle | None,
    ) -> None:
        super().__init__(librarian)
        self._config = config
        self._secret: bytes = await librarian.secret.remote()
        self._salts: dict[DomainTag, str] = {}
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        root = root_key(model=config.model.name, kv_dtype=config.model.dtype)
        self._builder = PromptBuilder(
            ChatTemplate.from_tokenizer(tokenizer),
            tokenizer,
            root,
            max_context_tokens=config.model.max_context_tokens,
            system=config.prompt.system,
            after_documents=config.prompt.after_documents,
            default_max_tokens=config.prompt.default_max_tokens,
        )
        self._conversations = Conversations(
            config.prompt.conversations, root=root, system=config.prompt.system
        )
        self._dispatcher = Dispatcher(config, workers, directory, rng=random.Random())
        self._searcher = Searcher(config, librarian, embedder, shards, reranker)
        self._status = ClusterStatus(config, librarian, shards, self._dispatcher)
        self._cache = CacheReport(config, workers, librarian, self._dispatcher, self._salt)
        self._quality = QualityReport(config, workers, librarian, self._dispatcher)
        self._instruments = Instruments()
        self._background = [
            asyncio.create_task(self._dispatcher.follow()),
            asyncio.create_task(self._follow_journal()),
        ]

    async def __serve_build_asgi_app__(self) -> Any:
        app = create_app(self._config, self)
        app.add_api_route("/v1/mygo/status", self._status.report, methods=["GET"])
        app.add_api_route("/v1/mygo/cache", self._cache.report, methods=["GET"])
        app.add_api_route("/v1/mygo/cache/quality", self._quality.report, methods=["GET"])
        app.add_api_route("/v1/mygo/cache/quality", self._quality.reset, methods=["DELETE"])
        return app

    async def answer(self, tenant: TenantId, request: AnswerRequest) -> Answer:
        try:
            return await self._answer(tenant, request)
        except BadRequest:
            self._instruments.add(metrics.REQUESTS, outcome=Outcome.REFUSED)
            raise
        except Exception:
            self._instruments.add(metrics.REQUESTS, outcome=Outcome.FAILED)
            raise

    async def _answer(self, tenant: TenantId, request: AnswerRequest) -> Answer:
        arrived_s = time.perf_counter()
        found = await self._documents(tenant, request)
        retrieval_s = time.perf_counter() - arrived_s

        prompt = await self._lay_out(tenant, request, found.passages)
        spans = self._spans(prompt)
        has_documents = any(span.tag for span in spans)
        reuse = Reuse.narrowest((request.reuse, *found.reuse)) if has_documents else Reuse.EXACT
        generation = await self._dispatcher.start(
            GenerateRequest(
                request_id=request.request_id,
                token_ids=prompt.token_ids,
                spans=spans,
                sampling=self._fitted(request, prompt),
                answer_domain=prompt.segments[-1].domain,
                reuse=reuse,
            ),
            prompt,
            _text(request, prompt),
        )
        try:
            self._measure(generation, retrieval_s, time.perf_counter() - arrived_s, found.degraded)
            head = AnswerHead(
                prompt_token_ids=prompt.token_ids,
                route=generation.route,
                retrieval_s=retrieval_s,
                citations=tuple(Hit.of(scored, found.attributes_of(scored)) for scored in prompt.citations),
                dropped=tuple(Hit.of(ScoredPassage(passage, 0.0)) for passage in prompt.dropped),
                degraded=(*found.degraded, *self._config.workers.notices),
                reuse=reuse,
            )
        except BaseException:
            await generation.aclose()
            raise
        return Answer(
            head, AnswerStream(generation, partial(self._ended, tenant, request, prompt, generation))
        )

    async def search(self, tenant: TenantId, query: str, retrieval: Retrieval) -> SearchResult:
        found = await self._searcher.search(tenant, query, retrieval)
        hits = tuple(Hit.of(scored, found.attributes_of(scored)) for scored in found.passages)
        return SearchResult(hits, found.degraded)

    async def readiness(self) -> Readiness:
        return await self._status.readiness()

    async def metrics_text(self) -> str:
        await self._status.record(self._instruments)
        return await cluster_metrics()

    async def _documents(self, tenant: TenantId, request: AnswerRequest) -> Found:
        if request.retrieval is not None:
            return await self._searcher.search(tenant, request.query, request.retrieval)
        domain = DomainTag(tenant)
        return Found([_inline(document, domain) for document in request.documents])

    async def _lay_out(
        self, tenant: TenantId, request: AnswerRequest, passages: list[ScoredPassage]
    ) -> Prompt:
        """Documents first, or appended to the conversation so far: whichever drops fewer passages, then
        whichever is predicted to be sooner."""
        messages = [Message(message.role, message.text) for message in request.messages]
        earlier = self._conversations.recall(tenant, messages[:-1], stores=_searched(request))
        if earlier is not None and not _sent_again(earlier, passages):
            earlier = None
        if _chars(request) < INLINE_CHARS:
            fresh, appended = self._layouts(tenant, request, passages, messages, earlier)
        else:  # tokenizing this takes long enough to hold up other requests' tokens
            fresh, appended = await asyncio.to_thread(
                self._layouts, tenant, request, passages, messages, earlier
            )
        if appended is None:
            return fresh
        # losing a document is worse than losing time; equal prices favour the layout that grows
        return min(
            (appended, fresh),
            key=lambda prompt: (len(prompt.dropped), self._dispatcher.price_s(prompt)),
        )

    def _layouts(
        self,
        tenant: TenantId,
        request: AnswerRequest,
        passages: list[ScoredPassage],
        messages: list[Message],
        earlier: Earlier | None,
    ) -> tuple[Prompt, Prompt | None]:
        """(documents first, appended to ``earlier``). May run in a thread, so it changes nothing."""
        domain = DomainTag(tenant)
        order = self._order(request)
        # the default is a wish: it shrinks to what the context leaves, in place of refusing the prompt
        asked = request.sampling.max_tokens
        max_tokens = None if asked == self._config.prompt.default_max_tokens else asked
        fresh = self._builder.documents_first(
            messages, passages, domain=domain, max_tokens=max_tokens, order=order
        )
        if earlier is None:
            return fresh, None
        appended = self._builder.appended(
            earlier, messages, passages, domain=domain, max_tokens=max_tokens, order=order
        )
        return fresh, appended

    def _order(self, request: AnswerRequest) -> DocumentOrder:
        if request.document_order == "retrieval":
            return retrieval_order
        return CacheOrder(lambda key: len(self._dispatcher.directory.holders(key)))

    def _spans(self, prompt: Prompt) -> tuple[SegmentSpan, ...]:
        return tuple(
            SegmentSpan(segment.key, step.end_tokens, self._salt(segment.domain), self._tag(segment.passage))
            for segment, step in zip(prompt.segments, prompt.path, strict=True)
        )

    def _tag(self, passage: Passage | None) -> str:
        return "" if passage is None else passage_tag(self._secret, passage.domain, passage.content_hash)

    def _salt(self, domain: DomainTag) -> str:
        salt = self._salts.get(domain)
        if salt is None:
            salt = self._salts[domain] = domain_salt(self._secret, domain)
        return salt

    def _measure(
        self,
        generation: Generation,
        retrieval_s: float,
        ttft_s: float,
        degraded: Sequence[str],
    ) -> None:
        record = self._instruments
        record.observe(metrics.TTFT_S, ttft_s)
        record.observe(metrics.RETRIEVAL_S, retrieval_s)
        record.add(metrics.RETRIES, generation.attempts - 1)
        record.add(metrics.DEGRADED, 1 if degraded else 0)
        record.add(metrics.PREDICTED_CACHED_TOKENS, generation.route.predicted_cached_tokens)
        if generation.prefill is not None:
            record.observe(metrics.QUEUE_S, generation.prefill.queue_s)
            record.observe(metrics.PREFILL_S, generation.prefill.prefill_s)

    def _ended(
        self,
        tenant: TenantId,
        request: AnswerRequest,
        prompt: Prompt,
        generation: Generation,
        outcome: Outcome,
        text: str,
        ids: Sequence[int],
    ) -> None:
        """Count it, and keep a finished answer as ids, so that the next turn can be appended to it."""
        self._instruments.add(metrics.REQUESTS, outcome=outcome)
        if generation.prefill is not None:
            self._count_tokens(prompt, generation.prefill)
        # a stop string cuts text that the ids still hold: such an answer is not kept
        if outcome is Outcome.FINISHED and not request.sampling.stop:
            messages = [Message(message.role, message.text) for message in request.messages]
            self._conversations.remember(tenant, messages, prompt, text, ids, stores=_searched(request))

    def _count_tokens(self, prompt: Prompt, prefill: PrefillStats) -> None:
        cached = prefill.cached_tokens
        for tier, tokens in cached.items():
            self._instruments.add(metrics.PROMPT_TOKENS, tokens, source=tier.value)
        self._instruments.add(metrics.PROMPT_TOKENS, prompt.tokens - sum(cached.values()), source="computed")

    def _fitted(self, request: AnswerRequest, prompt: Prompt) -> Sampling:
        room = self._builder.remaining_tokens(prompt)
        return replace(request.sampling, max_tokens=max(1, min(request.sampling.max_tokens, room)))

    async def _follow_journal(self) -> None:
        """Forget conversations over documents that were deleted."""
        position: int | None = None
        while True:
            try:
                if position is None:  # what is deleted by now is in no conversation
                    status = await reply(self._librarian.status.remote(), "librarian")
                    position = int(status["position"])
                entries = await reply(self._librarian.read.remote(position, 256, JOURNAL_WAIT_S), "librarian")
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("cannot follow the journal: %s", error)
                await asyncio.sleep(1.0)
                continue
            for entry in entries:
                gone = isinstance(entry, Delete)
                settle = self._conversations.forget_document if gone else self._conversations.admit_document
                for passage in entry.passages:
                    settle(entry.domain, passage.content_hash)
                position = entry.position


def _inline(document: InlineDocument, domain: DomainTag) -> ScoredPassage:
    digest = hashlib.sha256(document.text.encode(errors="surrogatepass")).hexdigest()
    passage = Passage(
        doc_id=DocId(document.id),
        index=0,
        text=document.text,
        content_hash=ContentHash(digest),
        filename=document.title,
        domain=domain,
    )
    return ScoredPassage(passage, 0.0)


def _searched(request: AnswerRequest) -> tuple[Any, ...]:
    """Where a request looks. The same words with another filter are another conversation too: filters
    keep the documents of one user from another, and an appended turn repeats the earlier documents."""
    if request.retrieval is None:
        return ()
    filters = request.retrieval.filters
    return (*request.retrieval.store_ids, *([f"filter {filters!r}"] if filters else []))


def _sent_again(earlier: Earlier, passages: Sequence[ScoredPassage]) -> bool:
    """True if all inline documents of an earlier turn came with this one too.

    Equal words do not make an equal conversation: two users of a tenant may begin alike over documents
    of their own, and an appended turn shows the earlier ones to the model again.
    """
    now = {scored.passage.content_hash for scored in passages}
    before = (segment.passage for segment in earlier.prompt.segments)
    return all(
        passage.content_hash in now for passage in before if passage is not None and passage.store_id is None
    )


def _chars(request: AnswerRequest) -> int:
    texts = [message.text for message in request.messages] + [each.text for each in request.documents]
    return sum(len(text) + MESSAGE_CHARS for text in texts)


def _text(request: AnswerRequest, prompt: Prompt) -> str:
    """The prompt as text, for the baseline routers that look at characters."""
    documents = [segment.passage.text for segment in prompt.segments if segment.passage is not None]
    return "\n".join([*documents, *(message.text for message in request.messages)])
