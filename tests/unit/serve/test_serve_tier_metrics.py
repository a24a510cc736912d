"""Engines count totals; instruments are given what was added since."""

from __future__ import annotations

from typing import Any

from mygo import metrics
from mygo.blend.guard import Guard
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Decision, Divergence, GuardSettings
from mygo.metrics import Kind, Metric
from mygo.serve import quality_metrics
from mygo.serve.tier_metrics import Recorder, samples
from mygo.types import Tier, WorkerId
from mygo.vllm_plugin.chunks.quality_view import QualityView, view
from mygo.vllm_plugin.tiers.counters import TierCounters


class Instruments:
    def __init__(self) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def add(self, metric: Metric, amount: float, **labels: str) -> None:
        assert metric.kind is Kind.COUNTER and amount >= 0
        key = metric.name, frozenset(labels.items())
        self.values[key] = self.values.get(key, 0.0) + amount

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.kind is Kind.GAUGE
        self.values[metric.name, frozenset(labels.items())] = value

    def value(self, metric: Metric, **labels: str) -> float:
        return self.values[metric.name, frozenset({"worker": "w", **labels}.items())]


def test_totals_become_increments_and_gauges_stay_what_they_are() -> None:
    recorder: Any = Instruments()
    tiers = Recorder(recorder, WorkerId("w"))
    counters = TierCounters()
    for total, held in ((10, 7), (25, 3), (25, 0)):
        counters.hit_tokens[Tier.HOST] = total
        counters.held_tokens[Tier.HOST] = held
        counters.disk.dropped_writes = 2
        tiers.record(samples(counters))
        assert recorder.value(metrics.TIER_HIT_TOKENS, tier="host") == total
        assert recorder.value(metrics.TIER_HELD_TOKENS, tier="host") == held
        assert recorder.value(metrics.DISK_TROUBLE, kind="dropped_write") == 2


def test_every_sample_has_the_labels_that_its_metric_declares() -> None:
    for metric, _, labels in samples(TierCounters()):
        assert metric in metrics.ALL
        assert ("worker", *(name for name, _ in labels)) == metric.labels


def _view() -> QualityView:
    """Bucket 2 has observed once, bucket 3 is off."""
    guard = Guard(GuardSettings((0.15,)))
    observed = Divergence(0.5, 0.75, 0.5)
    guard.observe(Decision(Action.SHADOW, 2, 0.15), [DocumentTag("d")], observed)
    guard._bucket(3).trial = None
    guard.documents_off.add(DocumentTag("e"))
    return view(guard, {Action.BLEND: 9}, 1)


def test_guards_figures_are_recorded_by_bucket_and_action() -> None:
    recorder: Any = Instruments()
    Recorder(recorder, WorkerId("w")).record(quality_metrics.samples(_view()))
    assert recorder.value(metrics.GUARD_DECISIONS, action="blend") == 9
    assert recorder.value(metrics.GUARD_STATE, bucket="2") == 1
    assert recorder.value(metrics.GUARD_MEAN_KL, bucket="2") == 0.5
    assert (
        recorder.value(metrics.GUARD_STATE, bucket="3"),
        recorder.value(metrics.GUARD_ALPHA, bucket="3"),
    ) == (0, 1)
    assert recorder.value(metrics.GUARD_DOCUMENTS_OFF) == 1
    assert not list(quality_metrics.samples(None))


def test_every_sample_of_the_guard_has_the_labels_that_its_metric_declares() -> None:
    for metric, _, labels in quality_metrics.samples(_view()):
        assert metric in metrics.ALL
        assert ("worker", *(name for name, _ in labels)) == metric.labels
