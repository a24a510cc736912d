"""The record of one answer while it is generated, and the ``mygo`` block made of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mygo.api.service import AnswerHead, DocumentOrder, Hit
from mygo.speculation import Overlap
from mygo.types import PrefillStats, Reuse, Tier, TokenDelta, TokenLogprob, Uncached


@dataclass(slots=True)
class Record:
    """Accumulates deltas. ``started_s`` is when the request arrived, by ``clock``."""

    head: AnswerHead
    document_order: DocumentOrder
    started_s: float
    clock: Callable[[], float] = time.perf_counter
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prefill: PrefillStats | None = None
    finish_reason: str | None = None
    ttft_s: float = 0.0

    def add(self, delta: TokenDelta) -> None:
        if delta.prefill is not None:
            self.prefill = delta.prefill
        if not self.token_ids and delta.token_ids:
            self.ttft_s = self.clock() - self.started_s
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def prompt_tokens(self) -> int:
        return len(self.head.prompt_token_ids)

    @property
    def cached_tokens(self) -> int:
        return sum(self.prefill.cached_tokens.values()) if self.prefill else 0

    @property
    def _reuse(self) -> Reuse:
        """How the prompt was served. Where blending was allowed and the engine has not told what it did, no
        claim is made that it was exact."""
        told = self.prefill.chunks if self.prefill else None
        exact = told is not None and not told.approximate
        return Reuse.EXACT if exact else self.head.reuse

    def chat_usage(self) -> dict[str, Any]:
        """OpenAI's usage block of a chat completion."""
        completion_tokens = len(self.token_ids)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def response_usage(self) -> dict[str, Any]:
        """OpenAI's usage block of a response."""
        output_tokens = len(self.token_ids)
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + output_tokens,
        }

    def mygo(self, *, citation_text: bool = False) -> dict[str, Any]:
        """Citations, what was left out or went wrong, and where the time went."""
        head, prefill = self.head, self.prefill
        cached = prefill.cached_tokens if prefill else {}
        loaded = prefill.chunks.loaded_tokens if prefill and prefill.chunks else 0
        return {
            "citations": [
                _citation(hit, number, with_text=citation_text)
                for number, hit in enumerate(head.citations, 1)
            ],
            "dropped_documents": [
                {"document_id": hit.document_id, "filename": hit.filename, "chunk": hit.chunk}
                for hit in head.dropped
            ],
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "cached_tokens": {tier.value: cached.get(tier, 0) for tier in Tier},
                "computed_tokens": max(0, self.prompt_tokens - self.cached_tokens - loaded),
                "uncached_tokens": _uncached(prefill),
                "chunk_tokens": _chunk_tokens(prefill),
                "retrieval_s": _rounded(head.retrieval_s),
                "queue_s": _rounded(prefill.queue_s if prefill else 0.0),
                "prefill_s": _rounded(prefill.prefill_s if prefill else 0.0),
                "ttft_s": _rounded(self.ttft_s),
                "total_s": _rounded(self.clock() - self.started_s),
            },
            "overlap": _overlap(head.overlap),
            "reuse": self._reuse.value,
            "document_order": self.document_order,
            "worker": head.route.worker,
            "route": {
                "predicted_s": _rounded(head.route.predicted_s),
                "predicted_load_s": _rounded(head.route.load_s),
                "predicted_cached_tokens": head.route.predicted_cached_tokens,
            },
            "degraded": list(head.degraded),
        }


def _uncached(prefill: PrefillStats | None) -> dict[str, int] | None:
    """The computed tokens by reason; None if the engine did not tell."""
    if prefill is None or prefill.uncached_tokens is None:
        return None
    return {reason.value: prefill.uncached_tokens.get(reason, 0) for reason in Uncached}


def _chunk_tokens(prefill: PrefillStats | None) -> dict[str, int] | None:
    """Of the documents that were reused apart from their prompts; None if the engine did not tell."""
    if prefill is None or prefill.chunks is None:
        return None
    return {"loaded": prefill.chunks.loaded_tokens, "repaired": prefill.chunks.repaired_tokens}


def _overlap(overlap: Overlap | None) -> dict[str, Any] | None:
    """How retrieval and prefill overlapped; None without retrieval."""
    if overlap is None:
        return None
    return {
        "stages": overlap.stages,
        "settled_stage": overlap.settled_stage,
        "speculations": overlap.speculations,
        "outcome": overlap.outcome.value,
        "hidden_s": _rounded(overlap.hidden_s),
        "wasted_s": _rounded(overlap.wasted_s),
    }


def _citation(hit: Hit, number: int, *, with_text: bool) -> dict[str, Any]:
    citation: dict[str, Any] = {
        "number": number,
        "document_id": hit.document_id,
        "filename": hit.filename,
        "chunk": hit.chunk,
        "content_hash": hit.content_hash,
        "score": hit.score,
    }
    if with_text:
        citation["text"] = hit.text
    return citation


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
