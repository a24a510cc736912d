"""When requests are due: rates over time, Poisson arrivals, and how a ramp looks for its limit. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

PROFILES = ("steady", "spike", "soak", "ramp")

RAMP_FACTOR = 1.5
"""From one rate of a ramp to the next."""
RAMP_HALVINGS = 2
"""How often the gap between the last rate that held and the first that did not is halved."""
RAMP_STEPS = 20
"""Rates tried at most: 1.5 ** 19 is 2,200 times the first."""


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of constant mean rate."""

    rate: float
    """Requests/s."""
    duration_s: float


def steps(profile: str, *, rate: float, duration_s: float, spike_factor: float) -> list[Step]:
    """The stretches of a profile whose rates are known beforehand (all but ``ramp``).

    A spike is a fifth of the time, after two fifths at ``rate`` and before two more.
    """
    if profile == "spike":
        calm = Step(rate, 0.4 * duration_s)
        return [calm, Step(rate * spike_factor, 0.2 * duration_s), calm]
    return [Step(rate, duration_s)]


def arrivals(steps: Sequence[Step], rng: Random) -> list[tuple[float, int]]:
    """(seconds, step) of each arrival: a Poisson process with the steps' rates, by time."""
    found: list[tuple[float, int]] = []
    begin_s = 0.0
    for number, step in enumerate(steps):
        end_s = begin_s + step.duration_s
        due_s = begin_s + rng.expovariate(step.rate)
        while due_s < end_s:
            found.append((due_s, number))
            due_s += rng.expovariate(step.rate)
        begin_s = end_s
    return found


def next_rate(tried: Sequence[tuple[float, bool]], first: float) -> float | None:
    """The rate that a ramp tries next; None if it is done.

    ``tried`` holds (rate, whether the objective held). Rates grow by ``RAMP_FACTOR`` until one does not
    hold; then the gap to the highest that held is halved (on a log scale) ``RAMP_HALVINGS`` times.
    """
    if not tried:
        return first
    broken = min((rate for rate, held in tried if not held), default=math.inf)
    best = max((rate for rate, held in tried if held and rate < broken), default=None)
    if best is None or len(tried) >= RAMP_STEPS:
        return None
    if broken == math.inf:
        return best * RAMP_FACTOR
    if broken / best <= RAMP_FACTOR ** (0.5**RAMP_HALVINGS) * (1 + 1e-9):
        return None
    return math.sqrt(best * broken)
