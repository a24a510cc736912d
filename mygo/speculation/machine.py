"""One request's speculation: what to start, keep, end or adopt as retrieval goes on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from mygo.speculation.overlap import Overlap, Speculated

Documents = tuple[Hashable, ...]
"""What makes two prompts of a request equal: its documents in their order, and whatever else may vary."""


@dataclass(frozen=True, slots=True)
class Move:
    """What a provisional result asks for."""

    end: bool
    """What runs is for other documents: end it."""
    consider: bool
    """Nothing runs for these documents: begin, if the gate allows it."""


@dataclass(frozen=True, slots=True)
class _Ended:
    documents: Documents
    computed_s: float
    decoded_s: float


class Speculation:
    """At most one prefill runs for a request at a time. All times are seconds on one clock.

    ``provisional`` for each result of the search but the last, ``final`` for that; in between ``began``,
    ``ended`` and ``failed`` tell what became of the moves. Nothing may reach the client of a prefill that
    ``final`` did not adopt.
    """

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.stages: list[tuple[Documents, float]] = []
        """What each stage showed, and when; the final one last."""
        self._running: Documents | None = None
        self._running_since_s = 0.0
        self._begun = 0
        self._failed = 0
        self._ended: list[_Ended] = []
        self._adopted = False

    def __repr__(self) -> str:
        return f"<Speculation after {len(self.stages)} stages, running={self._running is not None}>"

    @property
    def took_s(self) -> float:
        """Until the latest stage."""
        return self.stages[-1][1] - self.began_s if self.stages else 0.0

    @property
    def is_running(self) -> bool:
        return self._running is not None

    def provisional(self, documents: Documents, now_s: float) -> Move:
        """The search has found this so far. No prefill is worth beginning without documents."""
        self.stages.append((documents, now_s))
        if documents == self._running:
            return Move(end=False, consider=False)
        return Move(end=self.is_running, consider=bool(documents))

    def began(self, now_s: float) -> None:
        """A prefill for the latest stage's documents was sent."""
        assert self._running is None, "end what runs before another one begins"
        self._running, self._running_since_s = self.stages[-1][0], now_s
        self._begun += 1

    def ended(self, computed_s: float, decoded_s: float = 0.0) -> None:
        """What ran was ended after an engine had prefilled, and then decoded, for it for so long."""
        assert self._running is not None
        self._ended.append(_Ended(self._running, computed_s, decoded_s))
        self._running = None

    def failed(self) -> None:
        """What ran is lost, say with its worker."""
        assert self._running is not None
        self._running = None
        self._failed += 1

    def final(self, documents: Documents, now_s: float) -> bool:
        """The search is over: True if what runs is to be adopted; else it is to be ended."""
        self.stages.append((documents, now_s))
        self._adopted = documents == self._running
        return self._adopted

    def unadopted(self) -> None:
        """What was to be adopted is lost after all."""
        self.failed()
        self._adopted = False

    def overlap(self, first_token_s: float) -> Overlap:
        """The account, once the first token of the answer is there."""
        final, final_s = self.stages[-1]
        hidden_s = 0.0
        if self._adopted:
            hidden_s = max(0.0, min(first_token_s, final_s) - self._running_since_s)
        return Overlap(
            stages=len(self.stages),
            settled_stage=self._settled_stage(),
            speculations=self._begun,
            outcome=self._outcome(),
            hidden_s=hidden_s,
            wasted_s=sum(
                each.computed_s * (1 - shared_share(each.documents, final)) + each.decoded_s
                for each in self._ended
            ),
        )

    def _settled_stage(self) -> int:
        final = self.stages[-1][0]
        settled = len(self.stages)
        while settled > 1 and self.stages[settled - 2][0] == final:
            settled -= 1
        return settled

    def _outcome(self) -> Speculated:
        if self._adopted:
            return Speculated.ADOPTED
        if self._ended:
            return Speculated.WRONG
        return Speculated.FAILED if self._failed else Speculated.NONE


def shared_share(documents: Documents, final: Documents) -> float:
    """How much of a prompt with ``documents`` serves one with ``final``: the leading ones that are equal.

    KV is reused by prefix, so what comes behind the first difference is lost.
    """
    shared = 0
    for one, other in zip(documents, final, strict=False):
        if one != other:
            break
        shared += 1
    return shared / len(documents) if documents else 0.0
