"""A request as chunk reuse sees it, from its arrival to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mygo.blend.plan import BlendPlan, Match, Slot
from mygo.blend.variants import DocumentTag, Namespace, Variant, VariantKey
from mygo.blend.verdicts import Decision
from mygo.vllm_plugin.chunks.comparing import Comparing
from mygo.vllm_plugin.chunks.layout import Layout
from mygo.vllm_plugin.filling import FillerNews
from mygo.vllm_plugin.spans import SegmentMap

NO_FILLERS = FillerNews()


@dataclass(slots=True)
class Capturing:
    """A document whose KV is kept while this request computes it."""

    variant: Variant
    start_tokens: int
    end_tokens: int


@dataclass(frozen=True, slots=True)
class Reused:
    """What of a prompt came from chunks: told with its answer."""

    loaded_tokens: int
    repaired_tokens: int
    """Of the same documents, computed."""
    approximate: bool
    """Some of the prompt has seen documents that were not in the place where they had been computed."""
    ticket: int | None = None
    """Of a comparison that the quality guard asks for."""
    fillers: FillerNews = NO_FILLERS

    def as_params(self) -> dict[str, Any]:
        """As it travels in ``kv_transfer_params``."""
        chunks = asdict(self)
        ticket, fillers = chunks.pop("ticket"), chunks.pop("fillers")
        told = {"chunks": chunks} | ({"ticket": ticket} if ticket is not None else {})
        return told | ({"fillers": fillers} if self.fillers != NO_FILLERS else {})


@dataclass(slots=True)
class Live:
    request: Any
    segments: SegmentMap
    namespace: Namespace
    slots: Sequence[Slot]
    """Its documents, in order."""
    hasher: Any
    """vLLM's, with the domains of the prompt: gives the hashes of exact blocks."""
    exact_hashes: Sequence[bytes]
    """Of the prompt's full blocks, if all of it is computed exactly."""
    tags: list[tuple[int, str]] = field(default_factory=list)
    """Where its blocks stop being exact, and what they are shared as from there on."""
    named_by: list[tuple[int, str]] = field(default_factory=list)
    """The tags by which its segments were named last: none, for names that exact prompts share."""
    generation: int = 0
    """The guard's, of which the tags are."""
    matches: Sequence[Match] = ()
    """Documents that could be reused."""
    plan: BlendPlan | None = None
    offer: BlendPlan | None = None
    """What it is blended by, or would be if the quality guard did not want it exact."""
    asked: tuple[float, int] | None = None
    """The need and the guard's generation for which it has decided."""
    decision: Decision | None = None
    """The guard's; None: it was not asked."""
    cached_tokens: int = 0
    """Leading tokens that are not computed, as of the admission under way."""
    layout: Layout | None = None
    """Of the admission under way, until its prompt is computed."""
    pinned: tuple[VariantKey, ...] = ()
    """What this admission loads: it must stay until the layout is done."""
    capturing: list[Capturing] = field(default_factory=list)
    comparing: Sequence[Comparing] = ()
    """Documents whose stored values are compared while this admission computes them exactly."""
    reused: Reused | None = None
    """As of its first admission; a preempted request is admitted again."""
    retired: bool = False
    """It holds a passage that was purged, or something that has seen it: nothing is kept of it."""

    def reuses(self) -> list[tuple[int, Variant]]:
        """What is reused, and where it begins, as of the last plan."""
        pieces = self.plan.pieces if self.plan is not None else ()
        return [(piece.start_tokens, piece.variant) for piece in pieces if piece.variant is not None]

    def seen(self) -> list[tuple[int, frozenset[DocumentTag]]]:
        """The documents that have left something in what is reused, and where that begins, in order."""
        pieces = self.plan.pieces if self.plan is not None else ()
        return [
            (piece.start_tokens, piece.variant.sources | frozenset(piece.match.ranked_by))
            for piece in pieces
            if piece.match is not None and piece.variant is not None
        ]

    def ranked_by(self) -> list[tuple[int, DocumentTag]]:
        """What has had a say in which tokens of what is reused are computed, and where that begins."""
        pieces = self.plan.pieces if self.plan is not None else ()
        return [
            (piece.start_tokens, each) for piece in pieces if piece.match for each in piece.match.ranked_by
        ]
