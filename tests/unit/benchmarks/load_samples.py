"""Samples of a load test for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

from benchmarks.load.samples import Outcome, Sample


def sample(number: int, due_s: float, outcome: Outcome = Outcome.OK, **changed: Any) -> Sample:
    """A request that took a second; ``changed`` are fields of it."""
    fields: dict[str, Any] = {"step": 0, "sent_s": due_s, "ended_s": due_s + 1.0}
    return Sample(number=number, due_s=due_s, outcome=outcome, **(fields | changed))
