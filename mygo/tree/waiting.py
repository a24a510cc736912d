"""The waiting queue as the tree sees it: whose nodes are protected until they are admitted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mygo.tree.node import Node


@dataclass(slots=True)
class _Place:
    order: int
    """Earlier ones are admitted earlier."""
    last: Node
    """Where its path ends; split nodes keep their end, so this stays true."""


class WaitingQueue:
    """Requests in admission order; the earliest protect the nodes of their paths, within a budget.

    Protection costs the tokens that a node holds in the tier that holds most of it, counted once, when
    the first request protects it. Nobody is protected before one who came earlier, so it is the
    latest-admitted that go without (SGLang's measured loss was the other way round: requests lost what
    they had found while they waited).
    """

    def __init__(self, budget_tokens: int, changed: Callable[[Node], None]) -> None:
        """``budget_tokens``: 0 protects nothing; else the earliest request always is protected.
        ``changed`` is called when the earliest request that protects a node becomes another one."""
        self._budget_tokens = budget_tokens
        self._changed = changed
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._unprotected: OrderedDict[str, _Place] = OrderedDict()
        """Those of ``_places`` that found no room in the budget."""
        self._joined = 0
        self.protected_tokens = 0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        """Ids and the ends of their paths, earliest first."""
        return ((request_id, place.last) for request_id, place in self._places.items())

    def join(self, request_id: str, last: Node) -> None:
        self._joined += 1
        self._places[request_id] = place = _Place(self._joined, last)
        if self._budget_tokens:
            self._unprotected[request_id] = place
            self._protect()

    def leave(self, request_id: str) -> bool:
        """Admitted or gone. False if the request does not wait."""
        place = self._places.pop(request_id, None)
        if place is None:
            return False
        if self._budget_tokens:
            if self._unprotected.pop(request_id, None) is None:
                self._give_up(place)
            self._protect()
        return True

    def _protect(self) -> None:
        while self._unprotected:
            request_id, place = next(iter(self._unprotected.items()))
            fresh = [node for node in place.last.upward() if not node.awaited_by]
            for node in fresh:
                node.awaited_tokens = max(node.held.values(), default=0)
            tokens = sum(node.awaited_tokens for node in fresh)
            earliest = len(self._unprotected) == len(self._places)
            if self.protected_tokens + tokens > self._budget_tokens and not earliest:
                return
            del self._unprotected[request_id]
            self.protected_tokens += tokens
            for node in place.last.upward():
                node.awaited_by[place.order] = None
            for node in fresh:
                self._changed(node)

    def _give_up(self, place: _Place) -> None:
        for node in place.last.upward():
            was_earliest = next(iter(node.awaited_by)) == place.order
            del node.awaited_by[place.order]
            if not node.awaited_by:
                self.protected_tokens -= node.awaited_tokens
            if was_earliest:
                self._changed(node)
