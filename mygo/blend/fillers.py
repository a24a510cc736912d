"""Which documents should be computed once more, behind neutral ones, and which of them next.

What prompts compute anyway is kept for free, but not all of it is of use to all: a document that only ever
came first has no copy for other places, and one that came behind a private document has none for other
tenants. A copy behind fixed neutral documents, which everybody may read, is as public as the document itself.
It costs a computation, so it is made once a document was used again without any, when an engine has nothing
else to do.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from mygo.blend.variants import DocumentTag
from mygo.types import DomainTag

Copy = tuple[DocumentTag, DomainTag]
"""One that all may use who may read the document, and so of its own domain."""
Item = TypeVar("Item")

REMEMBERED = 4096
FIRST_PLACE = 0.25
"""How much a use in the first place counts, where a copy would have saved nothing: the document may come
elsewhere one day."""
MINUTE_S = 60.0
QUIET_S = 0.2
"""How long nobody must have needed an engine before it makes a copy: requests come in bursts."""
CAPACITY = 32
PATIENCE_S = 120.0
"""What has not been made by then is forgotten; what is in demand is offered again. Less than an engine keeps
deleted passages in mind: what was deleted since it was offered must not come back."""
PER_MINUTE = 60


class Demand:
    """Uses of documents that lack such a copy. Memory is bounded: who was used longest ago is forgotten.

    What a copy is worth is, as in ``worth``, the tokens that it saves per token that it holds, times its
    uses, which fade with a half-life in requests: seconds per byte, for a token costs about the same in all.
    """

    def __init__(self, half_life_requests: float, remembered: int = REMEMBERED) -> None:
        self._half_life_requests = half_life_requests
        self._remembered = remembered
        self._uses: OrderedDict[Copy, tuple[float, int]] = OrderedDict()
        """As of which request."""
        self._met: OrderedDict[Copy, None] = OrderedDict()
        """Those that were there once."""
        self._requests = 0

    def __repr__(self) -> str:
        return f"Demand({len(self._uses)} documents lack a copy)"

    def used(self, lacking: Mapping[Copy, float], first: Copy | None = None) -> dict[Copy, float]:
        """A request had these documents, each with the share of its tokens that a copy would save; ``first``
        in the first place. Returns what each is worth that was used before.

        For uses in the first place no second copy is made: the one before was of no use, or it would be kept.
        """
        self._requests += 1
        worth: dict[Copy, float] = {}
        for copy, saved_share in lacking.items():
            if copy == first and copy in self._met:
                continue
            known = self._uses.pop(copy, None)
            uses = FIRST_PLACE if copy == first else 1.0
            if known is not None:
                before, at = known
                uses += before * 2 ** ((at - self._requests) / self._half_life_requests)
                worth[copy] = uses * saved_share
            self._uses[copy] = uses, self._requests
        while len(self._uses) > self._remembered:
            self._uses.popitem(last=False)
        return worth

    def met(self, copy: Copy) -> None:
        """It has one now. If it loses it, its uses count from the beginning: what a full store does not keep
        is not computed for it again and again."""
        self._uses.pop(copy, None)
        self._met[copy] = None
        self._met.move_to_end(copy)
        if len(self._met) > self._remembered:
            self._met.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Wanted(Generic[Item]):
    """A copy that waits to be made."""

    name: Hashable
    worth: float
    item: Item
    """What it is made by."""
    offered_s: float


class Backlog(Generic[Item]):
    """What waits for an idle engine: the most valuable ones, for a while, and so many a minute."""

    def __init__(
        self, *, capacity: int = CAPACITY, patience_s: float = PATIENCE_S, per_minute: int = PER_MINUTE
    ) -> None:
        self._capacity = capacity
        self._patience_s = patience_s
        self._per_minute = per_minute
        self._waiting: dict[Hashable, Wanted[Item]] = {}
        self._taken_s: deque[float] = deque(maxlen=per_minute)

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, wanted: Wanted[Item]) -> None:
        """Take it in, in place of an older offer of this name, unless all others are worth more."""
        self._waiting[wanted.name] = wanted
        if len(self._waiting) > self._capacity:
            least = min(self._waiting.values(), key=lambda each: each.worth)
            del self._waiting[least.name]

    def take(self, now_s: float) -> Wanted[Item] | None:
        """The most valuable one, to be made now. None if there is none, or none more in this minute."""
        self._waiting = {
            name: each for name, each in self._waiting.items() if now_s - each.offered_s <= self._patience_s
        }
        is_spent = len(self._taken_s) == self._per_minute and now_s - self._taken_s[0] < MINUTE_S
        if not self._waiting or is_spent:
            return None
        best = max(self._waiting.values(), key=lambda each: each.worth)
        del self._waiting[best.name]
        self._taken_s.append(now_s)
        return best
