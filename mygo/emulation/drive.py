"""One drive in virtual time: a chunk after the other, reads first. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(slots=True)
class _Operation:
    name: Hashable
    unstarted_chunks: int
    submitted_s: float


class Drive:
    """Chunks take ``chunk_s`` each. Reads go by deadline, then in the order in which they came; writes wait
    until no read does. What has begun is not interrupted.

    Times must never fall from call to call.
    """

    def __init__(self, chunk_s: float) -> None:
        self._chunk_s = chunk_s
        self._reads: list[tuple[float, int, _Operation]] = []
        self._writes: deque[_Operation] = deque()
        self._submitted = 0
        self._current: _Operation | None = None
        self._free_s = 0.0
        """When the current chunk ends; without one, when the last one ended."""

    def read(self, name: Hashable, chunks: int, now_s: float, deadline_s: float = math.inf) -> None:
        """Begin to read ``chunks``, at least one; ``advance`` returns the name when all are read."""
        self._submitted += 1
        heappush(self._reads, (deadline_s, self._submitted, _Operation(name, chunks, now_s)))

    def write(self, name: Hashable, chunks: int, now_s: float) -> None:
        """Begin to write ``chunks``, at least one."""
        self._writes.append(_Operation(name, chunks, now_s))

    def advance(self, now_s: float) -> list[Hashable]:
        """What has ended by ``now_s``, in order. Call it before each submission at that time."""
        ended: list[Hashable] = []
        while True:
            if self._current is not None:
                if self._free_s > now_s:
                    return ended
                if not self._current.unstarted_chunks:
                    ended.append(self._current.name)
            self._current = self._start()
            if self._current is None:
                return ended

    def next_end_s(self) -> float | None:
        """When the next read or write ends, if no other comes; None while nothing is under way."""
        if self._current is not None and not self._current.unstarted_chunks:
            return self._free_s
        following = self._first()
        if following is None:
            return None
        begins_s = max(self._free_s, following.submitted_s)
        return begins_s + following.unstarted_chunks * self._chunk_s

    def _first(self) -> _Operation | None:
        if self._reads:
            return self._reads[0][2]
        return self._writes[0] if self._writes else None

    def _start(self) -> _Operation | None:
        """Begin the next chunk."""
        first = self._first()
        if first is None:
            return None
        self._free_s = max(self._free_s, first.submitted_s) + self._chunk_s
        first.unstarted_chunks -= 1
        if not first.unstarted_chunks:
            if self._reads:
                heappop(self._reads)
            else:
                self._writes.popleft()
        return first
