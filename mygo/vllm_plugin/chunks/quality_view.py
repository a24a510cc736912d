"""What the quality guard of an engine has seen and decided, as it is shown to people. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mygo.blend.guard import BUCKETS, Guard
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action


@dataclass(frozen=True, slots=True)
class BucketView:
    """Requests of about the same need for repair; figures are of what is served, or else of what is tried."""

    bucket: int
    need_from: float
    """Of their neediest document: the share of its tokens that would have to be repaired at alpha 1."""
    need_to: float
    state: str
    """``proven``: answered by the blend. ``unproven``: exactly, and compared aside. ``off``: exactly."""
    alpha: float | None
    """None if it is off, as are the figures below."""
    mean_kl: float | None
    """Nats, clipped, of the first token. None before the first observation, as are those below."""
    top1_agreement: float | None
    overlap: float | None
    observations: int


@dataclass(frozen=True, slots=True)
class QualityView:
    """All but ``buckets`` and ``documents_off`` are totals since the engine began."""

    kl_bound: float
    buckets: tuple[BucketView, ...]
    """Those that had a request."""
    documents_off: tuple[DocumentTag, ...]
    decisions: Mapping[Action, int] = field(default_factory=dict)
    """Requests that could reuse documents inexactly, by how they were answered."""
    observations: int = 0


def view(guard: Guard, decisions: Mapping[Action, int], observations: int) -> QualityView:
    """``decisions``, ``observations``: totals since the engine began."""
    return QualityView(
        guard.settings.kl_bound,
        tuple(_bucket(guard, number) for number in sorted(guard.buckets)),
        tuple(sorted(guard.documents_off)),
        {action: decisions.get(action, 0) for action in Action},
        observations,
    )


def need_range(bucket: int) -> tuple[float, float]:
    """The needs, in [0, 1], whose requests are in this bucket."""
    return bucket / BUCKETS, (bucket + 1) / BUCKETS


def _bucket(guard: Guard, number: int) -> BucketView:
    bucket = guard.buckets[number]
    track = bucket.served or bucket.trial
    if track is None:
        return BucketView(number, *need_range(number), bucket.state, None, None, None, None, 0)
    alpha = guard.settings.alphas[track.level]
    if not track.count:
        return BucketView(number, *need_range(number), bucket.state, alpha, None, None, None, 0)
    return BucketView(
        number,
        *need_range(number),
        bucket.state,
        alpha,
        track.mean_kl,
        track.agreement_sum / track.count,
        track.overlap_sum / track.count,
        track.count,
    )
