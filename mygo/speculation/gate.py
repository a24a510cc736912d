"""Whether a speculative prefill is worth it, in predicted seconds of everybody's waiting."""

from __future__ import annotations

from dataclasses import dataclass

from mygo.speculation.foresight import Outlook
from mygo.types import Route

LAUNCH_S = 0.002
"""What laying out, routing and sending one more prompt costs, about: the least gain that is worth it."""
MEMORY_REQUESTS = 20.0
"""About so many requests tell how busy the workers are."""
BUSIEST = 0.99


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
    workers: int = 1
    """That share the requests which are still to come."""
    new_tokens: int = 0
    """To be computed."""

    @classmethod
    def of(
        cls, route: Route, prompt_tokens: int, *, step_tokens: int, open_requests: int, workers: int
    ) -> Quote:
        """``step_tokens``: most that an engine computes in one step."""
        prefill_s = route.load_s + route.prefill_s
        new_tokens = max(1, prompt_tokens - route.predicted_cached_tokens)
        abort_s = prefill_s * min(1.0, step_tokens / new_tokens)
        return cls(route.queue_s, prefill_s, abort_s, open_requests, workers, new_tokens)

    def computed_s(self, since_s: float) -> float:
        """What is expected to have been computed so many seconds after it was sent."""
        return min(max(0.0, since_s - self.wait_s), self.prefill_s)


class Gate:
    """One per ingress. ``most``: speculations that it has running at once.

    One that is right takes its place in its worker's queue by so much sooner. One that is wrong is ended when
    the search shows it, at the end of its engine's step: what was computed until then delays its own request,
    whoever is at the worker, whoever searches now and will be sent there, and whoever comes before the worker
    is idle again. In a queue of one server (M/G/1) at utilisation b, the last are b / (1 - b) arrivals per
    service time of work that is ahead, which is the wait, the prompt itself, and on average half of what is
    wasted. The utilisation is the share of requests that found their worker busy, since arrivals see time
    averages.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = 0
        self._searching = 0
        self._busy = 0.0

    def __repr__(self) -> str:
        return f"<Gate {self._running} of {self._most}, searching {self._searching}, busy {self._busy:.2f}>"

    @property
    def has_room(self) -> bool:
        """Whether one more may run."""
        return self._running < self._most

    def searches(self, more: int) -> None:
        """So many more requests (or fewer, if negative) are waiting for their documents."""
        self._searching += more

    def dispatched(self, wait_s: float) -> None:
        """A request was sent to a worker that had so much to do before it."""
        self._busy += (float(wait_s > 0) - self._busy) / MEMORY_REQUESTS
        self._busy = min(self._busy, BUSIEST)

    def began(self) -> None:
        self._running += 1

    def over(self) -> None:
        """One was adopted, or ended."""
        self._running -= 1

    def may_gain(self, outlook: Outlook) -> bool:
        """Whether it is worth a quote."""
        return self.has_room and outlook.remaining_s >= LAUNCH_S

    def allows(self, outlook: Outlook, quote: Quote) -> bool:
        """Whether the expected gain is larger than what it is expected to cost."""
        if not self.may_gain(outlook):
            return False
        sooner_s = min(outlook.remaining_s, quote.wait_s + quote.prefill_s)
        cost_s = LAUNCH_S + (1 - outlook.useful_share) * self._harm_s(outlook.remaining_s, quote)
        return outlook.useful_share * sooner_s > cost_s

    def allows_opening(self, remaining_s: float, quote: Quote) -> bool:
        """The same for what any documents will stand behind: nothing of it is wrong, but only what is
        computed before the search has ended is gained, as its place in the queue is not kept."""
        return quote.computed_s(remaining_s) > LAUNCH_S + quote.abort_s / 2

    def _harm_s(self, remaining_s: float, quote: Quote) -> float:
        """Seconds that all would wait longer for one that is wrong."""
        beside_s = remaining_s - quote.wait_s
        if beside_s <= 0:
            return 0.0  # it leaves the queue before its turn
        computed_s = min(quote.prefill_s, max(quote.abort_s, beside_s))
        own_s = max(quote.abort_s / 2, quote.abort_s - beside_s)
        others = quote.open_requests + (self._searching - 1) / quote.workers
        arrivals = self._arrivals(quote.wait_s / max(quote.prefill_s, LAUNCH_S) + 1.5)
        return own_s + computed_s * (max(0.0, others) + arrivals)

    def _arrivals(self, services: float) -> float:
        """Expected before the worker is idle again, if it has so many service times of work."""
        return self._busy / (1 - self._busy) * services
