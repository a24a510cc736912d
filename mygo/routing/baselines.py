"""Routers that know less, for comparison: in turn, by open requests, by a hash of the first document."""

from __future__ import annotations

import bisect
import hashlib
import math
import random
from collections.abc import Sequence
from typing import ClassVar

from mygo.routing.router import RouteRequest, accepting, route_to
from mygo.types import Candidate, Route, WorkerId


class RoundRobin:
    """Workers in turn, by name; one that comes, goes or is full does not disturb the order."""

    needs_all_workers: ClassVar[bool] = True

    def __init__(self) -> None:
        self._last = WorkerId("")

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        able = sorted(accepting(workers), key=lambda each: each.worker)
        chosen = next((each for each in able if each.worker > self._last), able[0])
        self._last = chosen.worker
        return route_to(chosen, request.prompt_tokens)


class PowerOfTwo:
    """The less busy of two random workers (Mitzenmacher, 2001)."""

    needs_all_workers: ClassVar[bool] = True

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        return route_to(less_busy_of_two(accepting(workers), rng), request.prompt_tokens)


def less_busy_of_two(able: Sequence[Candidate], rng: random.Random) -> Candidate:
    """Fewest open requests among two picked at random, which also breaks ties."""
    return min(rng.sample(able, min(2, len(able))), key=lambda each: each.running)


class ConsistentHash:
    """The first document's place on a ring of workers (Karger et al., 1997).

    A worker that joins or leaves moves only the keys next to its points; one that is full or, with
    ``load_factor``, has more than that multiple of the mean open requests (consistent hashing with
    bounded loads, arXiv 1608.01350) passes its keys on to the next.
    """

    needs_all_workers: ClassVar[bool] = True

    def __init__(self, *, points_per_worker: int = 128, load_factor: float | None = None) -> None:
        self._points_per_worker = points_per_worker
        self._load_factor = load_factor
        self._ring: list[tuple[int, WorkerId]] = []
        self._members: frozenset[WorkerId] = frozenset()

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        able = {each.worker: each for each in accepting(workers)}
        # Full workers keep their points: being full for a moment must not move other keys.
        self._arrange(frozenset(each.worker for each in workers))
        limit = math.inf
        if self._load_factor is not None:
            total = sum(each.running for each in workers) + 1
            limit = math.ceil(self._load_factor * total / len(workers))
        start = bisect.bisect_left(self._ring, (_hash(request.first_document), WorkerId("")))
        clockwise = [able[name] for _, name in self._ring[start:] + self._ring[:start] if name in able]
        chosen = next((each for each in clockwise if each.running < limit), clockwise[0])
        return route_to(chosen, request.prompt_tokens)

    def _arrange(self, members: frozenset[WorkerId]) -> None:
        if members != self._members:
            self._members = members
            self._ring = sorted(
                (_hash(f"{name}#{point}"), name)
                for name in members
                for point in range(self._points_per_worker)
            )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
