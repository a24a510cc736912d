"""A cluster in virtual time: emulated workers behind the production directory, replicas and routing.

What is simulated is time and nothing else. Each worker is vLLM's own scheduler with MyGO's plugin; what
they hold reaches the directory in reports, and the ingress by way of its replica, each as late as in a
real cluster. Events happen in the order of their times, ties in the order in which they were planned,
so a seed gives the same run every time.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from mygo.config import RoutingConfig
from mygo.directory import Applied, Directory, Replica
from mygo.emulation.engine import EmulatedCore, StepOutcome
from mygo.emulation.profile import EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.errors import BadRequest, ConfigError, Unavailable
from mygo.routing import Router, RoutingDesk
from mygo.simulation.copies import Copies
from mygo.simulation.outcome import Served
from mygo.simulation.overlapping import RetrievalShape, Searches
from mygo.simulation.prompts import Prompts
from mygo.types import ChunkUse, GenerateRequest, Prompt, RequestId, Reuse, Route, Tier, WorkerId
from mygo.workloads.trace import Trace, TraceRequest

REPORT_INTERVAL_S = 0.5
"""Least time between two reports of a worker, and between two updates of an ingress, as in ``serve``."""
REPORT_DELAY_S = 0.01
"""From a worker to the directory, and from there to an ingress."""
RETRY_S = 0.1
"""Pause of an ingress that found every worker full."""


@dataclass(frozen=True, slots=True)
class ClusterShape:
    """What is simulated."""

    profile: EngineProfile
    engine: EngineSettings
    workers: int
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    document_order: str = "retrieval"
    reuse: Reuse = Reuse.EXACT
    """What every request asks for; blending takes chunk memory in the engine's settings."""
    max_ongoing: int = 64
    ingresses: int = 1
    """Ingress replicas, each with a view of its own; clients take them in turn."""
    router: Callable[[], Router] | None = None
    """Makes a router that is not MyGO's, for each ingress, in place of ``routing.policy``."""
    concurrency: int | None = None
    """Closed loop of this many clients, who ignore the trace's arrival times; None: as the trace says."""
    retrieval: RetrievalShape | None = None
    """How searches go; None: documents are known when a request arrives."""

    def __post_init__(self) -> None:
        for name in ("workers", "max_ongoing", "ingresses"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, not {getattr(self, name)}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"concurrency: must be at least 1, not {self.concurrency}")
        if self.document_order not in ("retrieval", "cache"):
            raise ConfigError(f"document_order: must be retrieval or cache, not {self.document_order!r}")


class Ingress:
    """What one ingress replica knows."""

    def __init__(self, shape: ClusterShape, rng: random.Random) -> None:
        self.replica = Replica()
        router = None if shape.router is None else shape.router()
        self.desk = RoutingDesk(self.replica, shape.routing, shape.max_ongoing, rng, router)


@dataclass(slots=True)
class _Open:
    """A request that was sent."""

    request: TraceRequest
    ingress: Ingress
    worker: WorkerId
    arrived_s: float
    prompt_tokens: int
    document_tokens: int
    predicted_cached_tokens: int
    cached_tokens: Mapping[Tier, int] = field(default_factory=dict)
    chunks: ChunkUse | None = None
    queue_s: float = 0.0
    prefill_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    is_held: bool = False
    """Of documents that the search has not confirmed: nobody is told of its tokens."""
    has_ended: bool = False


class Simulation:
    """One run of a trace. ``served`` fills as time goes on."""

    def __init__(self, shape: ClusterShape, trace: Trace, seed: int = 0) -> None:
        """Raises ConfigError if the trace holds a prompt that no engine of this shape could take."""
        self._shape = shape
        self._trace = trace
        rng = random.Random(seed)
        self._prompts = Prompts(trace, shape.engine.vocabulary)
        self._directory = Directory("simulated")
        self.cores: dict[WorkerId, EmulatedCore] = {}
        for number in range(shape.workers):
            worker = WorkerId(f"w{number:04}")
            self.cores[worker] = EmulatedCore(shape.engine, shape.profile, worker)
            self._directory.join(self.cores[worker].info)
        self._ingresses = [Ingress(shape, random.Random(rng.random())) for _ in range(shape.ingresses)]
        self._turns: Iterator[Ingress] = itertools.cycle(self._ingresses)
        self._planned: dict[WorkerId, float] = {}
        """When each engine's next event is on the agenda."""
        self._reporting: set[WorkerId] = set()
        """Workers with a report on the agenda."""
        self._open: dict[RequestId, _Open] = {}
        self._waiting: Iterator[TraceRequest] = iter(trace.requests)
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self.searches = None if shape.retrieval is None else Searches(shape.retrieval, self)
        self.copies = Copies(self, self._prompts.neutral()) if shape.engine.chunks.fillers else None
        self.served: list[Served] = []
        self.refused = 0
        """Requests whose prompt no engine of this shape takes."""

    def run(self, progress: Callable[[int], None] = lambda done: None) -> list[Served]:
        """Serve the whole trace; ``progress`` is told how many requests have ended. In order of ending."""
        for worker in self.cores:
            self._report(worker, 0.0)
        for ingress in self._ingresses:
            ingress.replica.follow(self._directory.snapshot())
        if self._shape.concurrency is None:
            self._arrive_next()
        else:
            for _ in range(self._shape.concurrency):
                self._ask_next(0.0)
        self._plan_follow(REPORT_INTERVAL_S)
        total = len(self._trace.requests)
        while self._agenda and len(self.served) + self.refused < total:
            now_s, _, action = heapq.heappop(self._agenda)
            before = len(self.served)
            action(now_s)
            if len(self.served) != before:
                progress(len(self.served) + self.refused)
        return self.served

    # --- requests ----------------------------------------------------------------------------------

    def _arrive_next(self) -> None:
        """Open loop: plan the next arrival; when it comes, plan the one after."""
        request = next(self._waiting, None)
        if request is not None:

            def arrive(now_s: float) -> None:
                self._arrive_next()
                self._ask(request, now_s)

            self.at(request.arrival_s, arrive)

    def _ask_next(self, now_s: float) -> None:
        """Closed loop: a client that has its answer asks the next question."""
        request = next(self._waiting, None)
        if request is not None:
            self.at(now_s, lambda at_s: self._ask(request, at_s))

    def _ask(self, request: TraceRequest, now_s: float) -> None:
        ingress = next(self._turns)
        if self.searches is None:
            self.send(request, ingress, now_s, now_s)
        else:
            self.searches.begin(request, ingress, now_s)

    @property
    def step_tokens(self) -> int:
        """Most that an engine computes in one step."""
        return self._shape.engine.step_tokens

    def prompt(self, request: TraceRequest, ingress: Ingress) -> Prompt:
        cached = None
        if self._shape.document_order == "cache":
            cached = lambda key: float(len(ingress.replica.holders(key)))  # noqa: E731
        return self._prompts.prompt(request, cached)

    def send(self, request: TraceRequest, ingress: Ingress, arrived_s: float, now_s: float) -> None:
        """Find a worker, later if there is none."""
        prompt = self.prompt(request, ingress)
        asked = self._prompts.generate_request(request, prompt, self._shape.reuse)
        try:
            route = self.dispatch(asked, request, prompt, ingress, arrived_s, now_s)
        except Unavailable:
            self.at(now_s + RETRY_S, lambda at_s: self.send(request, ingress, arrived_s, at_s))
        except BadRequest:
            self.refused += 1
            if self._shape.concurrency is not None:
                self._ask_next(now_s)
        else:
            if self.searches is not None:
                self.searches.gate.dispatched(route.queue_s)

    def dispatch(
        self,
        asked: GenerateRequest,
        request: TraceRequest,
        prompt: Prompt,
        ingress: Ingress,
        arrived_s: float,
        now_s: float,
        *,
        is_held: bool = False,
    ) -> Route:
        """Send it now, or raise Unavailable if no worker takes it, BadRequest if no engine can."""
        reads_text = self._shape.router is not None or self._shape.routing.policy == "prefix_affinity"
        text = self._prompts.routing_text(prompt) if reads_text else ""
        route = ingress.desk.reserve(asked.request_id, prompt, text, now_s)
        try:
            if self.copies is not None:
                self.copies.came(asked, route.worker, now_s)
            self.cores[route.worker].add(asked, now_s)
        except BadRequest:
            ingress.desk.over(asked.request_id, now_s)
            raise
        self._open[asked.request_id] = _Open(
            request,
            ingress,
            route.worker,
            arrived_s,
            prompt.tokens,
            sum(self._trace.texts[name].tokens for name in request.documents),
            route.predicted_cached_tokens,
            is_held=is_held,
        )
        self.changed(route.worker, now_s)
        return route

    def early(self, request: TraceRequest, prompt: Prompt, name: RequestId) -> GenerateRequest:
        """What a worker is asked for documents that may be wrong."""
        asked = self._prompts.generate_request(request, prompt, self._shape.reuse)
        return replace(asked, request_id=name)

    def prefilled_s(self, name: RequestId) -> float | None:
        """Seconds of its prefill, once its first token is there."""
        return self._open[name].prefill_s if self._open[name].first_token_s else None

    def decoded_s(self, name: RequestId) -> float:
        """From its first token to its latest."""
        return self._open[name].last_token_s - self._open[name].first_token_s

    def end(self, name: RequestId, now_s: float) -> None:
        """Abort what nobody wants any more."""
        each = self._open.pop(name)
        each.ingress.desk.over(name, now_s, has_begun=bool(each.first_token_s))
        if not each.has_ended:
            self.cores[each.worker].abort(name, now_s)
            self.changed(each.worker, now_s)

    def confirm(self, name: RequestId, now_s: float) -> None:
        """The search has found its documents: what has come of it goes out now."""
        each = self._open[name]
        each.is_held = False
        if each.first_token_s:
            each.first_token_s = now_s
            each.last_token_s = max(each.last_token_s, now_s)
        if each.has_ended:
            self._end(name, each.last_token_s)

    # --- workers -----------------------------------------------------------------------------------

    def changed(self, worker: WorkerId, now_s: float) -> None:
        """An engine has something to do, or did it: put its next event and its report on the agenda."""
        due_s = self.cores[worker].next_event_s
        if due_s is not None and self._planned.get(worker) != due_s:
            self._planned[worker] = due_s
            self.at(due_s, lambda at_s: self._advance(worker, due_s, at_s))
        if worker not in self._reporting:
            self._reporting.add(worker)
            self.at(now_s + REPORT_INTERVAL_S, lambda at_s: self._report(worker, at_s))

    def _advance(self, worker: WorkerId, due_s: float, now_s: float) -> None:
        if self._planned.get(worker) != due_s:
            return  # an arrival has changed the engine's plan since
        del self._planned[worker]
        for outcome in self.cores[worker].advance(now_s):
            self._take(outcome)
            if self.copies is not None:
                self.copies.heard(outcome, worker)
        self.changed(worker, now_s)

    def _take(self, outcome: StepOutcome) -> None:
        now_s = outcome.ended_s
        for name, token_ids in outcome.token_ids.items():
            each = self._open.get(name)
            if each is None:
                continue  # it was ended while its engine was in this step
            stats = outcome.prefills.get(name)
            if stats is not None:
                each.cached_tokens = stats.cached_tokens
                each.queue_s, each.prefill_s = stats.queue_s, stats.prefill_s
                each.first_token_s = now_s
                each.ingress.desk.first_token(name, now_s)
            elif token_ids:
                # the outcome may be of several steps, each of which gave one token
                each.gaps_s += [(now_s - each.last_token_s) / len(token_ids)] * len(token_ids)
            each.last_token_s = now_s
        for name in outcome.finished:
            each = self._open.get(name)
            if each is None:
                continue
            each.chunks = outcome.chunks.get(name)
            each.ingress.desk.over(name, now_s)
            each.has_ended = True
            if not each.is_held:
                self._end(name, now_s)

    def _end(self, name: RequestId, now_s: float) -> None:
        each = self._open.pop(name)
        self.served.append(_served(each, now_s))
        if self._shape.concurrency is not None:
            self._ask_next(now_s)

    def _report(self, worker: WorkerId, now_s: float) -> None:
        """What changed in a worker's cache goes to the directory."""
        self._reporting.discard(worker)
        core = self.cores[worker]
        report = core.report(now_s)
        if now_s == 0.0:
            self._directory.apply(report)
            return

        def arrive(_: float) -> None:
            outcome = self._directory.apply(report)
            assert outcome is Applied.APPLIED, outcome  # nothing is lost on a virtual network

        self.at(now_s + REPORT_DELAY_S, arrive)
        if core.open_requests:
            self.changed(worker, now_s)

    def _plan_follow(self, at_s: float) -> None:
        def follow(now_s: float) -> None:
            for ingress in self._ingresses:
                for announced in ingress.replica.announcements():
                    if len(self._ingresses) > 1:
                        self._directory.replay(announced)
            for ingress in self._ingresses:
                ingress.replica.follow(self._directory.changes_since(ingress.replica.version))
                ingress.desk.mirror(ingress.replica.siblings(), now_s)
            self._plan_follow(now_s + REPORT_INTERVAL_S)

        self.at(at_s + REPORT_DELAY_S, follow)

    def at(self, at_s: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._agenda, (at_s, next(self._order), action))


def _served(each: _Open, now_s: float) -> Served:
    request = each.request
    return Served(
        number=request.number,
        worker=each.worker,
        arrived_s=each.arrived_s,
        queue_s=each.queue_s,
        prefill_s=each.prefill_s,
        ttft_s=each.first_token_s - each.arrived_s,
        e2e_s=now_s - each.arrived_s,
        gaps_s=tuple(each.gaps_s),
        prompt_tokens=each.prompt_tokens,
        document_tokens=each.document_tokens,
        cached_tokens=sum(each.cached_tokens.values()),
        predicted_cached_tokens=each.predicted_cached_tokens,
        output_tokens=max(1, request.output_tokens),
        host_tokens=each.cached_tokens.get(Tier.HOST, 0),
        disk_tokens=each.cached_tokens.get(Tier.DISK, 0),
        chunk_tokens=each.chunks.loaded_tokens if each.chunks is not None else 0,
        repaired_tokens=each.chunks.repaired_tokens if each.chunks is not None else 0,
    )
