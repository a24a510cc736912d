"""The waiting queue as the tree sees it: whose nodes are protected until they are admitted."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from mygo.tree.node import Node, Turn


@dataclass(slots=True)
class _Place:
    turn: Turn
    last: Node
    """Where its path ends; split nodes keep their end, so this stays true."""


class WaitingQueue:
    """Requests in the order in which they are expected to be admitted: as they came, until ``expect`` says
    otherwise. The earliest protect the nodes of their paths, within a budget.

    Protection costs the tokens that a node holds in the tier that holds most of it, counted once, when
    the first request protects it. Nobody is protected before one who is expected earlier, so it is the
    latest-admitted that go without (SGLang's measured loss was the other way round: requests lost what
    they had found while they waited).
    """

    def __init__(self, budget_tokens: int, changed: Callable[[Node], None]) -> None:
        """``budget_tokens``: 0 protects nothing; else the earliest request always is protected.
        ``changed`` is called when the earliest request that protects a held node becomes another one."""
        self._budget_tokens = budget_tokens
        self._changed = changed
        self._places: dict[str, _Place] = {}
        self._line: list[tuple[Turn, str]] = []
        """Earliest first."""
        self._protecting = 0
        """So many of the line, from its front, protect their nodes."""
        self._joined = 0
        self.protected_tokens = 0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        """Ids and the ends of their paths, earliest first."""
        return ((request_id, self._places[request_id].last) for _, request_id in self._line)

    def join(self, request_id: str, last: Node) -> None:
        """A request comes, and is expected last."""
        self._joined += 1
        self._insert(request_id, _Place((inf, self._joined), last))
        self._protect()

    def expect(self, request_id: str, rank: float) -> None:
        """The request is expected before all of a higher rank, and those of equal rank as they came; a new
        one has infinite rank. Ids that do not wait are ignored.

        A later rank that changes nobody's place is not kept: so it costs next to nothing to tell one again.
        """
        place = self._places.get(request_id)
        if place is None or place.turn[0] == rank:
            return
        turn = rank, place.turn[1]
        at = bisect_left(self._line, (place.turn, request_id))
        before, behind = self._line[max(at - 1, 0) : at], self._line[at + 1 : at + 2]
        in_place = all(other <= turn for other, _ in before) and all(turn <= other for other, _ in behind)
        if in_place and place.turn[0] < inf:
            return
        self._remove(request_id)
        self._insert(request_id, _Place(turn, place.last))
        self._protect()

    def leave(self, request_id: str) -> bool:
        """Admitted or gone. False if the request does not wait."""
        if request_id not in self._places:
            return False
        self._remove(request_id)
        self._protect()
        return True

    def _insert(self, request_id: str, place: _Place) -> None:
        self._places[request_id] = place
        entry = place.turn, request_id
        at = bisect_left(self._line, entry)
        self._line.insert(at, entry)
        if at < self._protecting:
            self._add(place)
            while self.protected_tokens > self._budget_tokens and self._protecting > 1:
                _, latest = self._line[self._protecting - 1]
                self._give_up(self._places[latest])

    def _remove(self, request_id: str) -> None:
        place = self._places.pop(request_id)
        at = bisect_left(self._line, (place.turn, request_id))
        del self._line[at]
        if at < self._protecting:
            self._give_up(place)

    def _protect(self) -> None:
        """As many as there is room for."""
        while self._budget_tokens and self._protecting < len(self._line):
            place = self._places[self._line[self._protecting][1]]
            fresh = [node for node in place.last.upward() if not node.awaited_by]
            tokens = sum(max(node.held.values(), default=0) for node in fresh)
            if self._protecting and self.protected_tokens + tokens > self._budget_tokens:
                return
            self._add(place)

    def _add(self, place: _Place) -> None:
        self._protecting += 1
        for node in place.last.upward():
            if not node.awaited_by:
                node.awaited_tokens = max(node.held.values(), default=0)
                self.protected_tokens += node.awaited_tokens
            insort(node.awaited_by, place.turn)
            if node.held and node.awaited_by[0] == place.turn:
                self._changed(node)

    def _give_up(self, place: _Place) -> None:
        self._protecting -= 1
        for node in place.last.upward():
            at = bisect_left(node.awaited_by, place.turn)
            del node.awaited_by[at]
            if not node.awaited_by:
                self.protected_tokens -= node.awaited_tokens
            if node.held and at == 0:
                self._changed(node)
