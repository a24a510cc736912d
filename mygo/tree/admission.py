"""In which order waiting requests are admitted: those first of which the cache has most.

RAGCache's cache-aware reordering (arXiv 2404.12457, section 5.2) with a bound that holds: whoever waits is
overtaken so many times at most. What is cached is used before others push it out, and requests that take
little do not wait behind those that take long.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, TypeVar

DUE_FACTOR = 5.0
"""RAGCache's promise of a first token, as a multiple of what a request takes."""
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Appraisal:
    """A waiting request, as the tiers are now."""

    came_s: float
    new_tokens: int
    """To be computed."""
    serve_s: float = 0.0
    """Until its first token, alone on the engine: loads and computation. 0 as long as nobody can tell."""
    whole_s: float = 0.0
    """The same if nothing were cached."""


def due(request: Appraisal) -> float:
    """Earliest due date first (Jackson, UCLA 1955), due some multiple of what it takes after it came (Conway,
    1965): as good as shortest first where requests wait little, and as fair as first come where they wait
    long."""
    return -(request.came_s + DUE_FACTOR * request.serve_s)


def ratio(request: Appraisal) -> float:
    """RAGCache's: what is cached over what is to be computed, in seconds; one more than that."""
    return request.whole_s / request.serve_s if request.serve_s else 1.0


ORDERS: Mapping[str, Callable[[Appraisal], float]] = {"due": due, "ratio": ratio}
"""What a request is worth, by name: the highest goes first."""
DEFAULT_ORDER = "due"


class AdmissionOrder(Generic[T]):
    """The line of those who wait, in which the first ``window + 1`` may overtake one another.

    Who is admitted leaves a gap in the line until all who came before are gone, too. So the gaps behind a
    request are those who overtook it, and nobody has more of them behind than the first who waits: when these
    are ``window``, it goes next. That costs no counters and no walk through the line: whatever is asked or
    told takes O(window + log n) for n who wait or were taken out.
    """

    def __init__(self, window: int) -> None:
        """``window``: how often a request may be overtaken; 0 for first come, first served."""
        self._window = window
        self._waiting: dict[int, T] = {}
        """By number of arrival."""
        self._numbers: dict[T, int] = {}
        """Of those who wait."""
        self._near: list[int] = []
        """Numbers of the first ``window + 1`` who wait, sorted."""
        self._behind: list[int] = []
        """A heap of the other numbers. Who leaves from there is dropped when its number comes up."""
        self._gaps: list[int] = []
        """Numbers, sorted."""
        self._taken: dict[T, int] = {}
        """Those who were taken out since ``settle``, and may come back."""
        self._joined = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[T]:
        """Those who wait, in the order in which they came."""
        return (self._waiting[number] for number in sorted(self._waiting))

    def __contains__(self, request: object) -> bool:
        return request in self._numbers

    def __repr__(self) -> str:
        return f"AdmissionOrder(window={self._window}, waiting={len(self)}, gaps={len(self._gaps)})"

    def join(self, request: T) -> None:
        """A request that does not wait yet comes last."""
        self._joined += 1
        self._wait(request, self._joined)

    @property
    def candidates(self) -> list[T]:
        """Who may go next, ``window + 1`` at most, in the order in which they came."""
        return [self._waiting[number] for number in self._near]

    @property
    def overdue(self) -> T | None:
        """Who must go next, because it was overtaken as often as anybody may be. None: nobody."""
        if not self._near or len(self._gaps) - self._leading_gaps() < self._window:
            return None
        return self._waiting[self._near[0]]

    def first(self, worth: Callable[[T], float]) -> T | None:
        """Who should be admitted next: the one that is ``worth`` most, and came first among equals, unless
        somebody is ``overdue``. None: nobody waits. Asks for the worth of ``candidates`` only."""
        overdue = self.overdue
        return overdue if overdue is not None else max(self.candidates, key=worth, default=None)

    def take(self, request: T) -> None:
        """One who waits is taken out, to be admitted."""
        number = self._taken[request] = self._numbers[request]
        self._remove(request)
        insort(self._gaps, number)

    @property
    def taken(self) -> Iterable[T]:
        """Those who were taken out since ``settle`` and not given back."""
        return self._taken.keys()

    def give_back(self, request: T) -> bool:
        """One who was taken out was not admitted, and waits again where it did. False: nobody took it out
        since ``settle``."""
        number = self._taken.pop(request, None)
        if number is None:
            return False
        del self._gaps[bisect_left(self._gaps, number)]
        self._wait(request, number)
        return True

    def leave(self, request: T) -> None:
        """A request is gone without being admitted. Ignored for those who do not wait."""
        if request in self._numbers:
            self._remove(request)
            if not self._taken:
                self._close()

    def settle(self) -> int:
        """Who was taken out until now is admitted. Returns how many these are."""
        admitted = len(self._taken)
        self._taken.clear()
        self._close()
        return admitted

    def _wait(self, request: T, number: int) -> None:
        self._numbers[request] = number
        self._waiting[number] = request
        if len(self._near) <= self._window or number < self._near[-1]:
            insort(self._near, number)
            if len(self._near) > self._window + 1:
                number = self._near.pop()
            else:
                return
        heappush(self._behind, number)

    def _remove(self, request: T) -> None:
        number = self._numbers.pop(request)
        del self._waiting[number]
        if not self._near or number > self._near[-1]:
            return
        del self._near[bisect_left(self._near, number)]
        while self._behind and len(self._near) <= self._window:
            number = heappop(self._behind)
            # one that left from behind and was given back is there twice
            if number in self._waiting and number not in self._near[-1:]:
                self._near.append(number)

    def _leading_gaps(self) -> int:
        """How many gaps are before all who wait."""
        return bisect_left(self._gaps, self._near[0]) if self._near else len(self._gaps)

    def _close(self) -> None:
        """Gaps before all who wait have overtaken nobody any more."""
        del self._gaps[: self._leading_gaps()]
