"""What is kept of each request of a load test, and how it can have ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended, as its client saw it."""

    OK = "ok"
    """A finish reason and the closing event arrived."""
    SHED = "shed"
    """429 or 503: the cluster said that it could not serve it now."""
    REFUSED = "refused"
    """Another 4xx: the request was wrong for this cluster."""
    FAILED = "failed"
    """Another status that is not 200."""
    EARLY = "early"
    """A stream that reported an error before its first token."""
    CUT = "cut"
    """A stream that reported an error after its first token."""
    BROKEN = "broken"
    """A stream that ended with neither a finish reason nor an error."""
    UNREACHABLE = "unreachable"
    """No status line came back."""
    TIMEOUT = "timeout"
    """It had not ended when the client's patience did."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times are seconds since the load test began; spans start at ``due_s``, so a client or a
    cluster that falls behind shows."""

    number: int
    step: int
    """Of the profile, from 0."""
    due_s: float
    sent_s: float
    ended_s: float
    outcome: Outcome
    ttft_s: float | None = None
    """None if no token arrived."""
    itl_s: tuple[float, ...] = ()
    """Between one chunk with text and the next."""
    prompt_tokens: int = 0
    cached_tokens: dict[str, int] = field(default_factory=dict)
    """By tier; empty unless it finished."""
    output_tokens: int = 0
    worker: str = ""
    status: int | None = None
    error: str = ""
    """The server's words, or the client's."""

    @property
    def lag_s(self) -> float:
        """By how much the client itself was late."""
        return self.sent_s - self.due_s
