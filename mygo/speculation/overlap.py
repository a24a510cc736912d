"""The account of one answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Speculated(StrEnum):
    """What became of prefilling for documents that retrieval had not confirmed."""

    NONE = "none"
    """Nothing was begun: one stage, or it was not worth it."""
    ADOPTED = "adopted"
    WRONG = "wrong"
    """The final documents were others: what had been begun was ended."""
    FAILED = "failed"
    """It was lost, say with its worker, and the answer was generated afresh."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How retrieval and prefill of one answer overlapped."""

    stages: int
    """Results that retrieval showed, the final one included."""
    settled_stage: int
    """From which on, counted from 1, they named the final documents."""
    speculations: int = 0
    """Prefills that began before the final result."""
    outcome: Speculated = Speculated.NONE
    hidden_s: float = 0.0
    """How much sooner the adopted prefill began, as far as retrieval took beside it."""
    wasted_s: float = 0.0
    """Prefill for documents that the answer does not have, without the part whose KV it could reuse, and the
    time from its first token to its last."""
