"""The ingress: a question comes in; documents, a prompt, a worker and an answer go out.

``Ingress.answer`` is the read path, top to bottom. The HTTP shapes are in ``mygo/api``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
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
    Readiness,
    Retrieval,
    SearchResult,
)
from mygo.config import Config
from mygo.corpus import Delete
from mygo.errors import BadRequest
from mygo.prompt import ChatTemplate, Conversations, PromptBuilder
from mygo.serve.answer_stream import AnswerStream, Outcome
from mygo.serve.cache_report import CacheReport
from mygo.serve.calls import reply
from mygo.serve.cluster_status import ClusterStatus
from mygo.serve.corpus_service import CorpusService
from mygo.serve.dispatch import Dispatcher, Generating
from mygo.serve.instruments import Instruments, cluster_metrics
from mygo.serve.overlapping import Begun, Overlapper
from mygo.serve.planning import Planner
from mygo.serve.quality_report import QualityReport
from mygo.serve.search import Searcher
from mygo.speculation import Overlap
from mygo.tree.keys import root_key
from mygo.types import PrefillStats, Prompt, ScoredPassage, TenantId

logger = logging.getLogger(__name__)

JOURNAL_WAIT_S = 5.0


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
        secret: bytes = await librarian.secret.remote()
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        root = root_key(model=config.model.name, kv_dtype=config.model.dtype)
        builder = PromptBuilder(
            ChatTemplate.from_tokenizer(tokenizer),
            tokenizer,
            root,
            max_context_tokens=config.model.max_context_tokens,
            system=config.prompt.system,
            after_documents=config.prompt.after_documents,
            default_max_tokens=config.prompt.default_max_tokens,
        )
        self._conversations = Conversations(
            config.prompt.conversations, root=root, system=config.prompt.system, clock=time.monotonic
        )
        self._dispatcher = Dispatcher(config, workers, directory, rng=random.Random())
        self._searcher = Searcher(config, librarian, embedder, shards, reranker)
        self._planner = Planner(config, builder, self._conversations, self._dispatcher, secret)
        self._overlapper = Overlapper(config, self._searcher, self._planner, self._dispatcher)
        self._status = ClusterStatus(config, librarian, shards, self._dispatcher)
        self._cache = CacheReport(config, workers, librarian, self._dispatcher, self._planner.salt)
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
        arrived_s, came_s = time.perf_counter(), time.monotonic()
        begun = await self._overlapper.begin(tenant, request)
        found, prompt, generation = begun.found, begun.plan.prompt, begun.generation
        try:
            self._measure(begun, time.perf_counter() - arrived_s)
            head = AnswerHead(
                prompt_token_ids=prompt.token_ids,
                route=generation.route,
                retrieval_s=begun.retrieval_s,
                overlap=begun.overlap,
                citations=tuple(Hit.of(scored, found.attributes_of(scored)) for scored in prompt.citations),
                dropped=tuple(Hit.of(ScoredPassage(passage, 0.0)) for passage in prompt.dropped),
                degraded=(*found.degraded, *self._config.workers.notices),
                reuse=begun.plan.asked.reuse,
            )
        except BaseException:
            await generation.aclose()
            raise
        return Answer(
            head, AnswerStream(generation, partial(self._ended, tenant, request, prompt, generation, came_s))
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

    def _measure(self, begun: Begun, ttft_s: float) -> None:
        record, generation = self._instruments, begun.generation
        record.observe(metrics.TTFT_S, ttft_s)
        record.observe(metrics.RETRIEVAL_S, begun.retrieval_s)
        record.add(metrics.RETRIES, generation.attempts - 1)
        record.add(metrics.DEGRADED, 1 if begun.found.degraded else 0)
        record.add(metrics.PREDICTED_CACHED_TOKENS, generation.route.predicted_cached_tokens)
        if generation.prefill is not None:
            record.observe(metrics.QUEUE_S, generation.prefill.queue_s)
            record.observe(metrics.PREFILL_S, generation.prefill.prefill_s)
        if begun.overlap is not None:
            self._count_overlap(begun.overlap)

    def _count_overlap(self, overlap: Overlap) -> None:
        record = self._instruments
        for stage in range(1, overlap.stages):
            lasts = str(stage >= overlap.settled_stage).lower()
            record.add(metrics.PROVISIONAL_RESULTS, stage=str(stage), final=lasts)
        record.add(metrics.SPECULATIONS, overlap.speculations)
        record.add(metrics.SPECULATED_ANSWERS, outcome=overlap.outcome.value)
        record.add(metrics.RETRIEVAL_HIDDEN_S, overlap.hidden_s)
        record.add(metrics.SPECULATION_WASTED_S, overlap.wasted_s)

    def _ended(
        self,
        tenant: TenantId,
        request: AnswerRequest,
        prompt: Prompt,
        generation: Generating,
        came_s: float,
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
            self._planner.remember(tenant, request, prompt, text, ids, came_s=came_s)

    def _count_tokens(self, prompt: Prompt, prefill: PrefillStats) -> None:
        cached = prefill.cached_tokens
        for tier, tokens in cached.items():
            self._instruments.add(metrics.PROMPT_TOKENS, tokens, source=tier.value)
        self._instruments.add(metrics.PROMPT_TOKENS, prompt.tokens - sum(cached.values()), source="computed")

    async def _follow_journal(self) -> None:
        """Forget conversations over documents that were deleted."""
        position: int | None = None
        while True:
            try:
                if position is None:  # what is deleted by now is in no conversation
                    status = await reply(self._librarian.status.remote(), "librarian")
                    position = int(status["position"])
                entries = await reply(self._librarian.read.remote(position, 256, JOURNAL_WAIT_S), "librarian")
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
