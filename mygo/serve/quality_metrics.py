"""What a worker's quality guard knows, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from mygo import metrics
from mygo.serve.tier_metrics import Sample
from mygo.vllm_plugin.chunks.quality_view import QualityView

STATES = {"off": 0.0, "unproven": 1.0, "proven": 2.0}


def samples(view: QualityView | None) -> Iterator[Sample]:
    """Every figure, with its labels; none without a guard."""
    if view is None:
        return
    for action, requests in view.decisions.items():
        yield Sample(metrics.GUARD_DECISIONS, requests, (("action", action.value),))
    yield Sample(metrics.GUARD_OBSERVATIONS, view.observations)
    yield Sample(metrics.GUARD_DOCUMENTS_OFF, len(view.documents_off))
    for bucket in view.buckets:
        labels = (("bucket", str(bucket.bucket)),)
        yield Sample(metrics.GUARD_STATE, STATES[bucket.state], labels)
        yield Sample(metrics.GUARD_ALPHA, 1.0 if bucket.alpha is None else bucket.alpha, labels)
        if bucket.mean_kl is not None:
            yield Sample(metrics.GUARD_MEAN_KL, bucket.mean_kl, labels)
