"""Whether a speculative prefill is worth it, in predicted seconds of everybody's waiting."""

from __future__ import annotations

from dataclasses import dataclass

from mygo.speculation.foresight import Outlook

LAUNCH_S = 0.005
"""What laying out, routing and sending one more prompt costs, about: the least gain that is worth it."""
MEMORY_REQUESTS = 20.0
"""About so many requests tell how busy the workers are."""
BUSIEST = 0.99
BEST_SHARE = 0.95
"""Of a provisional result that lasts, at best."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What the best worker would make of a prompt now."""

    wait_s: float
    """Until it could begin."""
    prefill_s: float
    """Loading and computing what is not cached."""
    abort_s: float
    """Longest time until an abort takes effect: one step."""
    open_requests: int
    """That the worker has; what is wasted delays them too."""


class Gate:
    """One per ingress. ``most``: speculations that it has running at once.

    A prefill that is right saves its request the part that is computed before the search ends. One that is
    wrong delays whoever is there and whoever comes before the worker is idle again: in a queue of one server
    (M/G/1) at utilisation b, b / (1 - b) arrivals per service time of work that is ahead, which is the wait,
    the prompt itself, and on average half of what is wasted. The utilisation is the share of requests that
    found their worker busy, since arrivals see time averages.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = 0
        self._busy = 0.0

    def __repr__(self) -> str:
        return f"<Gate {self._running} of {self._most}, busy {self._busy:.2f}>"

    @property
    def is_open(self) -> bool:
        """Whether stages are worth asking for: one more may run, and at this load nearly certain ones would
        pay."""
        return self._running < self._most and (1 - BEST_SHARE) * self._arrivals(1.5) < BEST_SHARE

    def may_gain(self, outlook: Outlook) -> bool:
        """Whether it is worth a quote."""
        return self.is_open and outlook.remaining_s >= LAUNCH_S

    def dispatched(self, wait_s: float) -> None:
        """A request was sent to a worker that had so much to do before it."""
        self._busy += (float(wait_s > 0) - self._busy) / MEMORY_REQUESTS
        self._busy = min(self._busy, BUSIEST)

    def began(self) -> None:
        self._running += 1

    def over(self) -> None:
        """One was adopted, or ended."""
        self._running -= 1

    def allows(self, outlook: Outlook, quote: Quote) -> bool:
        """Whether the expected gain is larger than what it is expected to cost others."""
        if not self.may_gain(outlook):
            return False
        overlap_s = min(max(0.0, outlook.remaining_s - quote.wait_s), quote.prefill_s)
        if overlap_s < LAUNCH_S:
            return False
        wrong = 1 - outlook.useful_share
        delayed = quote.open_requests + self._arrivals(quote.wait_s / quote.prefill_s + 1.5)
        cost_s = LAUNCH_S + wrong * (overlap_s * delayed + quote.abort_s / 2)
        return outlook.useful_share * overlap_s > cost_s

    def _arrivals(self, services: float) -> float:
        """Expected before the worker is idle again, if it has so many service times of work."""
        return self._busy / (1 - self._busy) * services
