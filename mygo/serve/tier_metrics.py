"""A worker's figures as metrics: those of its tiers, and how any of them are recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mygo import metrics
from mygo.metrics import Kind, Metric
from mygo.serve.instruments import Instruments
from mygo.types import Tier, WorkerId
from mygo.vllm_plugin.tiers.counters import TierCounters


class Sample(NamedTuple):
    metric: Metric
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    """Beside the worker's."""


class Recorder:
    """Records what changed since the last time: the engine counts totals, instruments want increments."""

    def __init__(self, instruments: Instruments, worker: WorkerId) -> None:
        self._instruments = instruments
        self._worker = worker
        self._recorded: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def record(self, samples: Iterable[Sample]) -> None:
        for metric, value, labels in samples:
            named = {"worker": self._worker, **dict(labels)}
            if metric.kind is Kind.GAUGE:
                self._instruments.set(metric, value, **named)
            else:
                before = self._recorded.get((metric.name, labels), 0.0)
                self._recorded[metric.name, labels] = value
                self._instruments.add(metric, value - before, **named)


def samples(counters: TierCounters) -> Iterator[Sample]:
    """Every figure, with its labels."""
    for metric, by_tier in (
        (metrics.TIER_HIT_TOKENS, counters.hit_tokens),
        (metrics.EVICTED_TOKENS, counters.evicted_tokens),
        (metrics.REGRETTED_TOKENS, counters.regretted_tokens),
        (metrics.TIER_HELD_TOKENS, counters.held_tokens),
        (metrics.TIER_CAPACITY_TOKENS, counters.capacity_tokens),
    ):
        for tier in Tier:
            yield Sample(metric, by_tier[tier], (("tier", tier.value),))
    for tier in (Tier.HOST, Tier.DISK):  # nothing is loaded from the device
        yield Sample(metrics.LOADED_BYTES, counters.loaded_bytes[tier], (("tier", tier.value),))
        yield Sample(metrics.LOAD_S, counters.load_s[tier], (("tier", tier.value),))
    for reason, tokens in counters.uncached_tokens.items():
        yield Sample(metrics.UNCACHED_TOKENS, tokens, (("reason", reason.value),))
    yield Sample(metrics.EVICTED_WHILE_QUEUED_TOKENS, counters.evicted_while_queued_tokens)
    yield Sample(metrics.REFUSED_LOADS, counters.refused_loads)
    for outcome, tokens in (
        ("used", counters.prefetch_used_tokens),
        ("wasted", counters.prefetch_wasted_tokens),
    ):
        yield Sample(metrics.PREFETCHED_TOKENS, tokens, (("outcome", outcome),))
    disk = counters.disk
    for kind, chunks in (
        ("damaged", disk.damaged_chunks),
        ("missing", disk.missing_chunks),
        ("read_error", disk.read_errors),
        ("write_error", disk.write_errors),
        ("dropped_write", disk.dropped_writes),
    ):
        yield Sample(metrics.DISK_TROUBLE, chunks, (("kind", kind),))
