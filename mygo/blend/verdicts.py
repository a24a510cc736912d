"""What the quality guard is given, asked and told: its bounds, how to answer, how far a blend was from exact,
and what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mygo.blend.variants import DocumentTag
from mygo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GuardSettings:
    alphas: tuple[float, ...]
    """Ascending; the first is the calibrated one. One alone is never raised."""
    kl_bound: float = 0.12
    """Nats, on the mean."""
    kl_clip: float = 1.0
    """Nats. A first token that is off by more is simply wrong."""
    deviation_bound: float = 0.3
    """On the mean of a document's ``value_deviation``. Sound variants of SmolLM2-135M had 0.12 to
    0.24, whatever their birth; the same with their values scaled by 1.5 had 0.52 to 0.58."""

    def __post_init__(self) -> None:
        if not self.alphas or list(self.alphas) != sorted(set(self.alphas)) or self.alphas[0] < 0:
            raise ConfigError(f"alphas {self.alphas}: give at least one, ascending, none below 0")
        if not 0 < self.kl_bound < self.kl_clip:
            raise ConfigError(f"kl_bound {self.kl_bound}: must be above 0 and below kl_clip {self.kl_clip}")
        if not 0 < self.deviation_bound < 1:
            raise ConfigError(f"deviation_bound {self.deviation_bound}: must be above 0 and below 1")


class Action(StrEnum):
    EXACT = "exact"
    """Answer exactly."""
    SHADOW = "shadow"
    """Answer exactly; aside, blend at ``alpha`` and observe."""
    BLEND = "blend"
    """Answer by a blend at ``alpha``."""
    CHECK = "check"
    """Answer by a blend at ``alpha``; aside, compute exactly and observe."""


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    bucket: int
    alpha: float = 0.0


class Verdict(StrEnum):
    PROVEN = "proven"
    RAISED = "raised"
    LOWERED = "lowered"
    OFF = "off"
    DOCUMENT_OFF = "document_off"


@dataclass(frozen=True, slots=True)
class Change:
    """What the guard has changed, and upon what evidence."""

    verdict: Verdict
    bucket: int
    alpha: float
    """At which the bucket is served, or tried, from now on; the last one if it is off."""
    mean_kl: float
    """Nats, clipped, over the observations."""
    observations: int
    """All of that alpha where it was proven, else the most recent ones."""
    document: DocumentTag | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a blended answer was from the exact one to the same prompt."""

    first_token_kl: float
    """KL(exact || blended) of the first token's distribution, in nats."""
    top1_agreement: float
    """Share of the answer's tokens for which both have the same most likely token, in [0, 1]."""
    overlap: float
    """F1 of the two answers' tokens, in [0, 1]."""
    value_deviation: Mapping[DocumentTag, float] = field(default_factory=dict)
    """For reused documents, if it was measured: |stored - exact| / |exact| (2-norms) of its values, over all
    layers and the tokens that were not repaired."""
