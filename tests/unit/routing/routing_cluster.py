"""A small cluster for routing tests: LRU block caches, serial prefills, real directory and reservations.

Workers behave like vLLM's prefix cache: whole blocks, chained to their prefix, freed tail first,
evicted least recently used first, pinned while their request runs. Time is simulated.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mygo.directory import Directory, Replica
from mygo.routing import Reservations, Router, RouteRequest, queue_s
from mygo.types import (
    Candidate,
    PathStep,
    ProfileGrid,
    RequestId,
    Residency,
    ResidencyEvent,
    SegmentKey,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)

BLOCK = 32
PROFILE = ProfileGrid((0, 8192), (1, 256, 8192), ((0.02, 0.3, 12.0), (0.04, 0.6, 24.0)))
"""Seconds of a small model on two CPU cores: about 1.2 ms per token."""
REPORT_LAG_S = 0.1
DECODE_S = 0.5
QUESTION_TOKENS = 30


Block = tuple[SegmentKey, int]
"""(key of the segment that owns it, prompt tokens up to its end)."""


@dataclass(frozen=True)
class Ask:
    """One request: the system prompt, documents in order, and a question of its own."""

    documents: tuple[str, ...]
    number: int
    document_tokens: int
    system_tokens: int = 60

    @cached_property
    def text(self) -> str:
        """Four characters per token, each document recognisable from its first one."""
        system = "s" * 4 * self.system_tokens
        documents = "".join(
            (f"<{name}>" * self.document_tokens)[: 4 * self.document_tokens] for name in self.documents
        )
        return system + documents + f"{self.number:0{4 * QUESTION_TOKENS}d}"

    @cached_property
    def path(self) -> tuple[PathStep, ...]:
        names = ("sys", *self.documents, f"question {self.number}")
        tokens = (self.system_tokens, *(self.document_tokens for _ in self.documents), QUESTION_TOKENS)
        ends = list(itertools.accumulate(tokens))
        keys = [SegmentKey("/".join(names[: i + 1])) for i in range(len(names))]
        starts = [0, *ends[:-1]]
        return tuple(PathStep(*step) for step in zip(keys, starts, ends, strict=True))

    @cached_property
    def blocks(self) -> list[Block]:
        return [block for step in self.path for block in _blocks(step)]


class Worker:
    """One engine: its cache, its queue, its reports."""

    def __init__(self, name: WorkerId, blocks: int) -> None:
        self.info = WorkerInfo(name, "e", "m", BLOCK, blocks * BLOCK, 8192, PROFILE)
        self.capacity = blocks
        self.pins: Counter[Block] = Counter()
        self.free: OrderedDict[Block, None] = OrderedDict()
        """Resident and unpinned, least recently used first."""
        self.segments: dict[SegmentKey, tuple[SegmentKey | None, PathStep, set[int]]] = {}
        self.touched: set[SegmentKey] = set()
        self.sequence = 0
        self.queue: deque[tuple[Ask, RequestId]] = deque()
        self.busy = False
        self.running = 0

    def admit(self, ask: Ask) -> tuple[int, float]:
        """Allocate all blocks of a prompt; returns (cached tokens, prefill seconds)."""
        blocks = ask.blocks
        usable = (ask.path[-1].end_tokens - 1) // BLOCK
        hits = 0
        for block in blocks[:usable]:
            if block not in self.free and block not in self.pins:
                break
            hits += 1
        for block in blocks:
            self.free.pop(block, None)
            self.pins[block] += 1
        while len(self.free) + len(self.pins) > self.capacity:
            evicted, _ = self.free.popitem(last=False)
            self._note(evicted, present=False)
        parents = dict(zip([s.key for s in ask.path], [None, *(s.key for s in ask.path)], strict=False))
        for step in ask.path:
            self.segments.setdefault(step.key, (parents[step.key], step, set()))
        for block in blocks:
            self._note(block, present=True)
        cached = hits * BLOCK
        grid_s = _seconds(cached, ask.path[-1].end_tokens - cached)
        return cached, grid_s

    def finish(self, ask: Ask) -> None:
        for block in reversed(ask.blocks):
            self.pins[block] -= 1
            if not self.pins[block]:
                del self.pins[block]
                self.free[block] = None

    def report(self) -> WorkerReport:
        events = []
        for key in self.touched:
            parent, step, ends = self.segments[key]
            owned = [end for _, end in _blocks(step)]
            valid = step.start_tokens // BLOCK * BLOCK
            for end in owned:
                if end not in ends:
                    break
                valid = end
            events.append(
                ResidencyEvent(
                    key,
                    parent,
                    step.start_tokens,
                    step.end_tokens,
                    valid if ends else 0,
                    len(ends) == len(owned),
                )
            )
            if not ends:
                del self.segments[key]
        self.touched.clear()
        queued = sum(ask.path[-1].end_tokens for ask, _ in self.queue)
        load = WorkerLoad(len(self.queue), self.running, queued)
        self.sequence += 1
        return WorkerReport(self.info.worker, "e", self.sequence - 1, tuple(events), load)

    def _note(self, block: Block, *, present: bool) -> None:
        key, end = block
        ends = self.segments[key][2]
        if present:
            ends.add(end)
        else:
            ends.discard(end)
        self.touched.add(key)


@dataclass
class Outcome:
    """What a run cost."""

    requests: Counter[WorkerId] = field(default_factory=Counter)
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    """Document tokens computed although they had been computed before, on any worker."""
    document_tokens: Counter[tuple[WorkerId, SegmentKey]] = field(default_factory=Counter)
    """Computed tokens per worker and document."""
    seconds: list[float] = field(default_factory=list)
    """Time to first token per request."""

    @property
    def least_share(self) -> float:
        return min(self.requests.values()) / sum(self.requests.values())

    @property
    def mean_s(self) -> float:
        return sum(self.seconds) / len(self.seconds)


def one_document(seed: int, *, requests: int = 200, system_tokens: int = 60) -> list[Ask]:
    """One of 20 documents per request, Zipf 0.9."""
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(20)]
    picked = rng.choices(names, _zipf(20), k=requests)
    return [Ask((name,), i, 480, system_tokens) for i, name in enumerate(picked)]


def topics(seed: int, *, requests: int = 200) -> list[Ask]:
    """The top 4 of a topic's 5 documents, in rank order, one of them sometimes missing; 8 topics."""
    rng = random.Random(seed)
    asks = []
    for i, topic in enumerate(rng.choices(range(8), _zipf(8), k=requests)):
        missing = rng.randrange(10)
        ranked = tuple(f"t{topic}.{rank}" for rank in range(5) if rank != missing)
        asks.append(Ask(ranked[:4], i, 240))
    return asks


def questions(seed: int, *, requests: int = 200) -> list[Ask]:
    """40 questions, Zipf 0.9, each with its own 3 of 24 documents, so that first documents recur."""
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(24)]
    results = []
    for _ in range(40):
        found: dict[str, None] = {}
        while len(found) < 3:
            found[rng.choices(names, _zipf(24))[0]] = None
        results.append(tuple(found))
    return [Ask(each, i, 240) for i, each in enumerate(rng.choices(results, _zipf(40), k=requests))]


def working_set_blocks(asks: Sequence[Ask]) -> int:
    """Blocks of all segments that can recur (questions do not)."""
    return len({block for ask in asks for step in ask.path[:-1] for block in _blocks(step)})


def _zipf(count: int) -> list[float]:
    return [1 / (rank + 1) ** 0.9 for rank in range(count)]


def run(
    router: Router,
    asks: Sequence[Ask],
    *,
    workers: int = 2,
    blocks: int,
    concurrency: int = 1,
    seed: int = 0,
    max_ongoing: int = 64,
) -> Outcome:
    """Serve ``asks`` in order by ``concurrency`` clients that each wait for their answer."""
    rng = random.Random(seed)
    cluster = {name: Worker(name, blocks) for name in (WorkerId(f"w{i}") for i in range(workers))}
    directory, replica, reservations = Directory("d"), Replica(), Reservations()
    outcome = Outcome(requests=Counter(dict.fromkeys(cluster, 0)))
    seen: set[SegmentKey] = set()
    for worker in cluster.values():
        directory.join(worker.info)
    replica.follow(directory.snapshot())

    order = itertools.count()
    agenda: list[tuple[float, int, Callable[[float], None]]] = []

    def later(at_s: float, action: Callable[[float], None]) -> None:
        heapq.heappush(agenda, (at_s, next(order), action))

    def send_report(worker: Worker, now_s: float) -> None:
        report = worker.report()

        def arrive(_: float) -> None:
            directory.apply(report)
            replica.follow(directory.changes_since(replica.version))

        later(now_s + REPORT_LAG_S, arrive)

    remaining = iter(asks)

    def next_request(now_s: float) -> None:
        ask = next(remaining, None)
        if ask is None:
            return
        replica.expire(now_s)
        located = replica.locate(ask.path)
        candidates = [
            Candidate(
                name,
                located.get(name, Residency()),
                queue_s(PROFILE, replica.load(name), reservations.backlog_s(name, now_s)),
                max(replica.load(name).running, reservations.open_requests(name, now_s)),
                PROFILE,
                reservations.open_requests(name, now_s) < max_ongoing,
            )
            for name in cluster
        ]
        asked = RouteRequest(
            ask.path[-1].end_tokens, ask.text, ask.path[1].key, ask.system_tokens, ask.path[:-1]
        )
        route = router.route(asked, candidates, rng, now_s)
        request = RequestId(str(ask.number))
        reservations.reserve(request, route.worker, route.prefill_s, now_s)
        replica.expect(route.worker, ask.path, request, now_s, 30.0)
        worker = cluster[route.worker]
        outcome.requests[route.worker] += 1
        worker.queue.append((ask, request))
        sent_s[request] = now_s
        begin(worker, now_s)

    sent_s: dict[RequestId, float] = {}

    def begin(worker: Worker, now_s: float) -> None:
        if worker.busy or not worker.queue:
            return
        ask, request = worker.queue.popleft()
        worker.busy = True
        worker.running += 1
        cached, prefill_s = worker.admit(ask)
        account(worker, ask, cached)
        later(now_s + prefill_s, lambda at_s: first_token(worker, ask, request, at_s))

    def account(worker: Worker, ask: Ask, cached: int) -> None:
        for step in ask.path:
            computed = step.end_tokens - max(cached, step.start_tokens)
            if computed <= 0:
                continue
            outcome.computed_tokens += computed
            if step.key.count("/") in range(1, len(ask.documents) + 1):
                outcome.document_tokens[worker.info.worker, step.key] += computed
                if step.key in seen:
                    outcome.recomputed_tokens += computed
                seen.add(step.key)

    def first_token(worker: Worker, ask: Ask, request: RequestId, now_s: float) -> None:
        worker.busy = False
        outcome.seconds.append(now_s - sent_s[request])
        reservations.release(request, now_s)
        replica.started(request)
        send_report(worker, now_s)
        later(now_s + DECODE_S, lambda at_s: done(worker, ask, request, at_s))
        begin(worker, now_s)

    def done(worker: Worker, ask: Ask, request: RequestId, now_s: float) -> None:
        worker.running -= 1
        worker.finish(ask)
        reservations.finish(request)
        replica.settled(request)
        send_report(worker, now_s)
        next_request(now_s)

    for _ in range(concurrency):
        next_request(0.0)
    while agenda:
        now_s, _, action = heapq.heappop(agenda)
        action(now_s)
    assert sum(outcome.requests.values()) == len(asks)
    return outcome


def _blocks(step: PathStep) -> list[Block]:
    first = (step.start_tokens // BLOCK + 1) * BLOCK
    return [(step.key, end) for end in range(first, step.end_tokens + 1, BLOCK)]


def _seconds(cached_tokens: int, new_tokens: int) -> float:
    """The engines' real speed, which is not quite what the profile says."""
    return 0.02 + new_tokens * 0.0012 * (1 + cached_tokens / 8192)
