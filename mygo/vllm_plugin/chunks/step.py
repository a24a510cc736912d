"""What the scheduler's half tells the workers in each step."""

from __future__ import annotations

from dataclasses import dataclass, field

from mygo.blend.variants import DocumentTag, Variant, VariantKey
from mygo.vllm_plugin.chunks.disk import ChunkHome
from mygo.vllm_plugin.chunks.layout import Load, Positions


@dataclass(frozen=True, slots=True)
class Capture:
    """Prompt tokens that this step computes and whose KV is to be kept."""

    variant: VariantKey
    chunk_tokens: int
    """Of the whole chunk; several steps may compute it, in order."""
    chunk_start: int
    start_tokens: int
    end_tokens: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Prompt tokens that this step computes exactly, of a document of which there is a chunk: how far is it
    from that?"""

    ticket: int
    document: DocumentTag
    variant: VariantKey
    positions: Positions
    """True ones, rising."""
    start_tokens: int
    """The chunk's first token is this one of the prompt."""


@dataclass(slots=True)
class ChunkStep:
    """By request id, where it is about requests."""

    positions: dict[str, Positions] = field(default_factory=dict)
    """True positions of the scheduled tokens, of requests where they are not those that vLLM counts."""
    loads: dict[str, list[Load]] = field(default_factory=dict)
    captures: dict[str, list[Capture]] = field(default_factory=dict)
    comparisons: dict[str, list[Comparison]] = field(default_factory=dict)
    dropped: list[VariantKey] = field(default_factory=list)
    """Chunks that nothing will load any more."""
    forget: bool = False
    """Let go of all chunks in memory first."""
    home: ChunkHome | None = None
    """Where chunks lie on disk; said once, before anything else about it."""
    erased: list[VariantKey] = field(default_factory=list)
    """Delete them from disk first."""
    reads: list[VariantKey] = field(default_factory=list)
    """Bring them from disk to memory."""
    rankings: list[tuple[Variant, VariantKey]] = field(default_factory=list)
    """Chunks that this step completes, and the other one of its document from which each is ranked."""
    writes: list[Variant] = field(default_factory=list)
    """Put them on disk once this step is computed: it completes them."""
