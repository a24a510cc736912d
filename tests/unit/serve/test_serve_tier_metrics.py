"""Engines count totals; instruments are given what was added since."""

from __future__ import annotations

from typing import Any

from mygo import metrics
from mygo.metrics import Kind, Metric
from mygo.serve.tier_metrics import TierMetrics, samples
from mygo.types import Tier, WorkerId
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
    tiers = TierMetrics(recorder, WorkerId("w"))
    counters = TierCounters()
    for total, held in ((10, 7), (25, 3), (25, 0)):
        counters.hit_tokens[Tier.HOST] = total
        counters.held_tokens[Tier.HOST] = held
        counters.disk.dropped_writes = 2
        tiers.record(counters)
        assert recorder.value(metrics.TIER_HIT_TOKENS, tier="host") == total
        assert recorder.value(metrics.TIER_HELD_TOKENS, tier="host") == held
        assert recorder.value(metrics.DISK_TROUBLE, kind="dropped_write") == 2


def test_every_sample_has_the_labels_that_its_metric_declares() -> None:
    for metric, _, labels in samples(TierCounters()):
        assert metric in metrics.ALL
        assert ("worker", *(name for name, _ in labels)) == metric.labels
