"""What the requests of a stretch of a load test add up to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load.samples import Outcome, Sample
from benchmarks.report.compare import SLO_FACTOR
from benchmarks.report.figures import Spread, spread

LOST_SHARE = 0.01
"""A rate at which more requests than this are not served does not hold."""
LATE_S = 0.05
"""A client whose lag has a 99th percentile above this did not offer the load that it was asked to."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The requests that were due in [begin_s, end_s)."""

    begin_s: float
    end_s: float
    outcomes: dict[str, int]
    """Requests by how they ended; every one is in here once."""
    offered_rate: float
    """Requests/s that were due."""
    served_rate: float
    """Of these, those that ended well, over the time until the last of them had ended."""
    output_rate: float
    """Tokens/s, over the same time."""
    ttft: Spread
    """From when it was due; of every request that got a first token."""
    itl: Spread
    cached_ratio: dict[str, float]
    """Share of the served requests' prompt tokens that came from each tier."""
    worker_share: dict[str, float]
    """Share of the served requests by worker, largest first."""
    lag_p99_s: float

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    @property
    def served(self) -> int:
        return self.outcomes.get(Outcome.OK, 0)

    @property
    def lost_share(self) -> float:
        """Of the requests that did not end well."""
        return (self.requests - self.served) / self.requests if self.requests else 0.0


def figures(samples: Sequence[Sample], begin_s: float, end_s: float) -> Figures:
    """Zeros where there is nothing to add up."""
    due = [each for each in samples if begin_s <= each.due_s < end_s]
    good = [each for each in due if each.outcome is Outcome.OK]
    served_s = max([end_s, *(each.ended_s for each in good)]) - begin_s
    prompt_tokens = sum(each.prompt_tokens for each in good)
    cached: Counter[str] = Counter()
    for each in good:
        cached.update(each.cached_tokens)
    workers = Counter(each.worker for each in good)
    return Figures(
        begin_s=begin_s,
        end_s=end_s,
        outcomes=dict(Counter(each.outcome.value for each in due)),
        offered_rate=len(due) / (end_s - begin_s),
        served_rate=len(good) / served_s,
        output_rate=sum(each.output_tokens for each in good) / served_s,
        ttft=spread([each.ttft_s for each in due if each.ttft_s is not None]),
        itl=spread([gap for each in due for gap in each.itl_s]),
        cached_ratio={tier: tokens / prompt_tokens for tier, tokens in sorted(cached.items())},
        worker_share={worker: count / len(good) for worker, count in workers.most_common()},
        lag_p99_s=float(np.percentile([each.lag_s for each in due], 99)) if due else 0.0,
    )


def intervals(samples: Sequence[Sample], interval_s: float, end_s: float) -> list[Figures]:
    """The stretches of ``interval_s`` from 0 to ``end_s`` in which requests were due."""
    begins = np.arange(0.0, end_s, interval_s)
    found = [figures(samples, float(begin), float(begin) + interval_s) for begin in begins]
    return [each for each in found if each.requests]


def holds(step: Figures, objective_s: float | None) -> bool:
    """True if a ramp's step kept the objective: mean TTFT below it, and nearly all requests served.

    ``objective_s`` is None for the first step, which defines it (see ``objective``).
    """
    fast = objective_s is None or step.ttft.mean < objective_s
    return step.requests > 0 and fast and step.lost_share <= LOST_SHARE


def objective(first: Figures) -> float:
    """Seconds of mean TTFT that a ramp allows: five times that of its first, lowest rate."""
    return SLO_FACTOR * first.ttft.mean
