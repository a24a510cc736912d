"""Runs the plan: groups of systems that are up together, load by load, round by round, in shuffled turns."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks.harness.drive import Driver, Place
from benchmarks.harness.plan import Load, Member, order, refill, rounds, send_times_s
from benchmarks.harness.prompts import Layout
from benchmarks.harness.records import Record, RoundRecord, RunFolder
from benchmarks.harness.retrieval import Retrieval
from benchmarks.harness.servers import Start, cpu_s, start_apart
from benchmarks.systems import SYSTEMS
from benchmarks.systems.system import Query, Server, Settings, Throttle
from benchmarks.systems.throttle import Ratios
from mygo.workloads.trace import Trace

WARM_UP = 2
"""Requests that every server answers before anything is measured; of texts that no load has."""
PROBES = 4
"""Requests that measure the seconds of prefill per token, for throttling."""
RATE_PROBES = 12
"""Requests that measure what the baseline serves, where no load has."""


@dataclass(frozen=True)
class Plan:
    """A run, apart from where it is kept."""

    trace: Trace
    groups: Sequence[Sequence[Member]]
    loads: Sequence[Load]
    per_round: int
    """Requests that a system serves in its turn under closed loads."""
    open_per_round: int
    """The same under open loads."""
    output_tokens: int | None
    seed: int
    settings: Settings
    throttle: Ratios | None

    @property
    def baseline(self) -> str:
        return self.groups[0][0].label

    def length(self, load: Load) -> int:
        """Requests per round."""
        return self.per_round if load.kind == "closed" else self.open_per_round

    def rounds(self, load: Load) -> int:
        return -(-len(self.trace.requests) // self.length(load))

    @property
    def requests(self) -> int:
        """All that will be sent, by all systems."""
        return len(self.trace.requests) * len(self.loads) * sum(map(len, self.groups))

    @property
    def trace_rate(self) -> float:
        """Requests/s of the trace as it is."""
        return len(self.trace.requests) / self.trace.duration_s if self.trace.duration_s else 1.0


class Runner:
    """Serves what is missing in the folder."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        layout: Layout,
        retrieval: Retrieval,
        console: Console,
        start: Start = start_apart,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._layout = layout
        self._retrieval = retrieval
        self._console = console
        self._start = start
        self._queries: dict[str, list[Query]] = {}

    async def run(self) -> None:
        """Raises RuntimeError if a system does not start; what was finished is kept."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False))
        with Progress(*columns, *left, console=self._console, speed_estimate_period=600) as progress:
            task = progress.add_task("requests", total=self._plan.requests)

            def say(what: str, done: int = 0) -> None:
                progress.update(task, description=what, advance=done)
                if not self._console.is_terminal and not done:
                    self._console.print(what, markup=False, highlight=False)

            for members in self._plan.groups:
                await self._group(members, say)

    async def _group(self, members: Sequence[Member], say: Callable[..., None]) -> None:
        finished = {load.name: self._finished(members, load) for load in self._plan.loads}
        served = 0
        for load in self._plan.loads:
            stretches = rounds(self._plan.trace.requests, self._plan.length(load))
            served += sum(len(stretches[number]) for done in finished[load.name].values() for number in done)
        if served:
            say("going on", served)
        if served == len(self._plan.trace.requests) * len(self._plan.loads) * len(members):
            return
        spare = self._plan.settings.spare_cores(max(SYSTEMS[each.system].workers for each in members))
        with contextlib.ExitStack() as stack:
            servers: dict[str, Server] = {}
            for member in members:
                say(f"starting {member.label}")
                settings = await self._settings(servers.get(members[0].label))
                server = self._start(member, settings, self._folder.attempt(member.label), spare)
                stack.callback(server.stop)
                servers[member.label] = server
                for query in self._edition("warm-up")[:WARM_UP]:
                    await server.ask(query)
            for load in self._plan.loads:
                await self._load(load, members, servers, finished[load.name], say)

    async def _load(
        self,
        load: Load,
        members: Sequence[Member],
        servers: dict[str, Server],
        finished: dict[str, set[int]],
        say: Callable[..., None],
    ) -> None:
        stretches = self._stretches(load)
        if all(len(done) == len(stretches) for done in finished.values()):
            return
        say(f"{load.name}: indexing its documents")
        self._retrieval.fill(self._edition(load.name))
        rate = load.rate(await self._baseline_rate(servers[members[0].label]) if load.relative else None)
        fresh = {label for label, done in finished.items() if not done}
        for number, stretch in enumerate(stretches):
            turns = order(members, seed=self._plan.seed, load=load.name, round_number=number)
            for place, member in enumerate(turns):
                if number in finished[member.label]:
                    continue
                refilled = member.label not in fresh
                if refilled:
                    await self._refill(load, servers[member.label], number)
                    fresh.add(member.label)
                say(f"{load.name}, round {number + 1} of {len(stretches)}: {member.label}")
                place_of = Place(member.label, load.name, number)
                done, records = await self._round(load, rate, stretch, servers, place_of)
                self._folder.add(replace(done, place=place, refilled=refilled), records)
                say(f"{load.name}, round {number + 1} of {len(stretches)}", len(records))

    async def _round(
        self,
        load: Load,
        rate: float | None,
        stretch: Sequence[Query],
        servers: dict[str, Server],
        place: Place,
    ) -> tuple[RoundRecord, list[Record]]:
        server = servers[place.system]
        before, cpu_before = await server.counters(), cpu_s(servers)
        driver = Driver(server, self._retrieval, place)
        if rate is None:
            records = await driver.closed(stretch, int(load.value))
        else:
            arrivals_s = [query.arrival_s for query in stretch]
            records = await driver.open(stretch, send_times_s(arrivals_s, self._plan.trace_rate, rate))
        if all(each.error is not None for each in records):
            raise RuntimeError(f"{place.system} answered nothing any more: {records[0].error}")
        after, cpu_after = await server.counters(), cpu_s(servers)
        spent = {label: cpu_after[label] - cpu_before[label] for label in servers}
        done = RoundRecord(
            system=place.system,
            load=place.load,
            round=place.round,
            rate=rate,
            place=0,
            wall_s=max((each.last_s or each.sent_s for each in records), default=0.0),
            cached_tokens={
                tier: total - before.cached_tokens.get(tier, 0.0)
                for tier, total in after.cached_tokens.items()
            },
            load_s=after.load_s - before.load_s,
            cpu_s=round(spent[place.system], 2),
            others_cpu_s=round(sum(spent.values()) - spent[place.system], 2),
        )
        return done, records

    async def _refill(self, load: Load, server: Server, round_number: int) -> None:
        """Bring a server's caches to about what they were when the run was cut off before this round."""
        settings = self._plan.settings
        capacity_tokens = settings.model.kv_cache_bytes + settings.host_kv_bytes
        capacity_tokens //= settings.kv_bytes_per_token
        served = self._edition(load.name)[: round_number * self._plan.length(load)]
        for query in served[len(served) - refill([each.prompt.tokens for each in served], capacity_tokens) :]:
            await server.ask(replace(query, output_tokens=1))

    async def _settings(self, baseline: Server | None) -> Settings:
        """The run's settings; with throttling, the ratios times what the baseline needs for a token."""
        ratios = self._plan.throttle
        if ratios is None or baseline is None:
            return self._plan.settings
        path = self._folder.path / "throttle.json"
        if path.exists():
            return replace(self._plan.settings, throttle=Throttle(**json.loads(path.read_text())))
        prefill_s_per_token = await self._prefill_s_per_token(baseline)
        throttle = ratios.throttle(prefill_s_per_token)
        path.write_text(json.dumps(asdict(throttle)) + "\n")
        return replace(self._plan.settings, throttle=throttle)

    async def _prefill_s_per_token(self, baseline: Server) -> float:
        replies = [(query, await baseline.ask(query)) for query in self._edition("probe")[:PROBES]]
        return min(
            reply.prefill_s / max(1, query.prompt.tokens - reply.cached_tokens) for query, reply in replies
        )

    async def _baseline_rate(self, baseline: Server) -> float:
        """Requests/s that the baseline serves one after the other: of all the trace if it has done that
        already, else of its first requests. Those have the caches empty before them."""
        done = self._folder.rounds(self._plan.baseline, Load("closed", 1).name)
        if done:
            return len(self._plan.trace.requests) / sum(each.wall_s for each in done.values())
        path = self._folder.path / "rate.json"
        if path.exists():
            return float(json.loads(path.read_text()))
        probes = self._edition("rate")[:RATE_PROBES]
        began_s = time.perf_counter()
        for query in probes:
            await baseline.ask(query)
        rate = len(probes) / (time.perf_counter() - began_s)
        path.write_text(json.dumps(rate))
        return rate

    def _edition(self, name: str) -> list[Query]:
        if name not in self._queries:
            trace = self._plan.trace
            self._queries[name] = self._layout.queries(trace, name, output_tokens=self._plan.output_tokens)
        return self._queries[name]

    def _stretches(self, load: Load) -> list[Sequence[Query]]:
        return rounds(self._edition(load.name), self._plan.length(load))

    def _finished(self, members: Sequence[Member], load: Load) -> dict[str, set[int]]:
        return {member.label: set(self._folder.rounds(member.label, load.name)) for member in members}
