"""A directory and its replica under lost, repeated and reordered messages, deaths and restarts.

Two references: a naive model that redoes every outcome on plain dicts, and the simulated workers
themselves (whoever is up to date must know exactly what they hold).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mygo.directory import Applied, Changes, Directory, Replica, Synced
from mygo.types import (
    Dispatch,
    PathStep,
    ProfileGrid,
    RequestId,
    Residency,
    ResidencyEvent,
    SegmentKey,
    Tier,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)

BLOCK = 4
PROFILE = ProfileGrid((0, 64), (0, 64), ((0.0, 1.0), (0.0, 1.0)))
NAMES = ("a", "ab", "abc", "b", "ba", "s", "sx", "sxy")
"""Keys that spell their path. ``s`` is shorter than a block; it is never reported."""
TOKENS = {"a": 6, "b": 11, "c": 5, "s": 2, "x": 5, "y": 8}

names = st.sampled_from(NAMES)
workers = st.sampled_from([WorkerId("w0"), WorkerId("w1")])


def path(name: str) -> tuple[PathStep, ...]:
    steps: list[PathStep] = []
    start = 0
    for i, letter in enumerate(name):
        steps.append(PathStep(SegmentKey(name[: i + 1]), start, start + TOKENS[letter]))
        start += TOKENS[letter]
    return tuple(steps)


@dataclass
class SimWorker:
    """The truth: what one engine incarnation holds, and the reports it has made."""

    name: WorkerId
    epoch: int
    sequence: int = 0
    held: dict[SegmentKey, ResidencyEvent] = field(default_factory=dict)
    sent: list[WorkerReport] = field(default_factory=list)

    @property
    def info(self) -> WorkerInfo:
        return WorkerInfo(self.name, f"e{self.epoch}", "m", BLOCK, 64, 64, PROFILE)

    def report(self, events: tuple[ResidencyEvent, ...], *, snapshot: bool = False) -> None:
        load = WorkerLoad(running=self.sequence)
        self.sent.append(
            WorkerReport(self.name, self.info.epoch, self.sequence, events, load, snapshot=snapshot)
        )
        self.sequence += 1


@dataclass
class Model:
    """What a directory should know of one worker, by the letter of the contract."""

    epoch: str
    last: int = -1
    synced: bool = True
    held: dict[SegmentKey, ResidencyEvent] = field(default_factory=dict)
    running: int = 0


class DirectoryMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.incarnation = 0
        self.directory = Directory("0", log_limit=6)
        self.replica = Replica()
        self.sims = {name: SimWorker(name, 0) for name in (WorkerId("w0"), WorkerId("w1"))}
        self.model: dict[WorkerId, Model] = {}
        self.expected: dict[RequestId, Dispatch] = {}
        self.reports: list[WorkerReport] = []
        self.updates: list[Changes] = []

    # --- the workers ---------------------------------------------------------------------------

    @rule(name=workers, where=names, blocks=st.integers(0, 9), tier=st.sampled_from(Tier))
    def cache_changes(self, name: WorkerId, where: str, blocks: int, tier: Tier) -> None:
        steps = path(where)
        step = steps[-1]
        low, high = step.start_tokens // BLOCK, step.end_tokens // BLOCK
        if low == high:
            return
        valid = min(low + blocks, high) * BLOCK if blocks else 0
        parent = steps[-2].key if len(steps) > 1 else None
        event = ResidencyEvent(
            step.key, parent, step.start_tokens, step.end_tokens, valid, valid == high * BLOCK, tier
        )
        sim = self.sims[name]
        if valid:
            sim.held[step.key] = event
        else:
            sim.held.pop(step.key, None)
        sim.report((event,))
        self.reports.append(sim.sent[-1])

    @rule(name=workers)
    def worker_sends_snapshot(self, name: WorkerId) -> None:
        sim = self.sims[name]
        sim.report(tuple(sim.held.values()), snapshot=True)
        self.reports.append(sim.sent[-1])

    @rule(name=workers)
    def worker_joins(self, name: WorkerId) -> None:
        info = self.sims[name].info
        self.directory.join(info)
        if name not in self.model or self.model[name].epoch != info.epoch:
            self.lose(name)
            self.model[name] = Model(info.epoch)

    @rule(name=workers)
    def engine_restarts(self, name: WorkerId) -> None:
        self.sims[name] = SimWorker(name, self.sims[name].epoch + 1)

    @rule(name=workers)
    def worker_is_forgotten(self, name: WorkerId) -> None:
        self.directory.forget(name)
        self.lose(name)

    def lose(self, name: WorkerId) -> None:
        self.model.pop(name, None)
        self.expected = {r: d for r, d in self.expected.items() if d.worker != name}

    # --- the network between workers and directory ---------------------------------------------

    @precondition(lambda self: self.reports)
    @rule(data=st.data(), keep=st.booleans())
    def report_arrives(self, data: st.DataObject, keep: bool) -> None:
        """In any order; kept ones arrive again later."""
        index = data.draw(st.integers(0, len(self.reports) - 1))
        self.deliver(self.reports[index] if keep else self.reports.pop(index))

    @rule()
    def all_reports_arrive_in_order(self) -> None:
        for report in self.reports:
            self.deliver(report)
        self.reports.clear()

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def report_is_lost(self, data: st.DataObject) -> None:
        self.reports.pop(data.draw(st.integers(0, len(self.reports) - 1)))

    def deliver(self, report: WorkerReport) -> None:
        assert self.directory.apply(report) is self.predict(report)

    def predict(self, report: WorkerReport) -> Applied:
        known = self.model.get(report.worker)
        if known is None or known.epoch != report.epoch:
            return Applied.UNKNOWN
        if report.sequence <= known.last:
            return Applied.DUPLICATE
        if not report.snapshot and (not known.synced or report.sequence > known.last + 1):
            known.held, known.synced = {}, False
            return Applied.GAP
        if report.snapshot:
            known.held, known.synced = {}, True
        known.last, known.running = report.sequence, report.load.running
        for event in report.events:
            known.held.pop(event.key, None)
            if event.prefix_tokens:
                known.held[event.key] = event
        return Applied.APPLIED

    # --- dispatches ----------------------------------------------------------------------------

    @rule(name=workers, where=names, request=st.integers(0, 3), expires_s=st.integers(1, 9))
    def request_is_dispatched(self, name: WorkerId, where: str, request: int, expires_s: int) -> None:
        key = RequestId(str(request))
        dispatch = Dispatch(key, name, path(where), 1.0, 0.0, float(expires_s))
        self.directory.expect(dispatch)
        self.expected.pop(key, None)
        if name in self.model:
            self.expected[key] = dispatch

    @rule(request=st.integers(0, 3))
    def request_settles(self, request: int) -> None:
        self.directory.settled(RequestId(str(request)))
        self.expected.pop(RequestId(str(request)), None)

    @rule(now_s=st.integers(0, 9))
    def time_passes(self, now_s: int) -> None:
        self.directory.expire(now_s)
        self.expected = {r: d for r, d in self.expected.items() if d.expires_s > now_s}

    # --- the replica ---------------------------------------------------------------------------

    @rule()
    def update_is_made(self) -> None:
        self.updates.append(self.directory.changes_since(self.replica.version))

    @precondition(lambda self: self.updates)
    @rule(data=st.data(), keep=st.booleans())
    def update_arrives(self, data: st.DataObject, keep: bool) -> None:
        index = data.draw(st.integers(0, len(self.updates) - 1))
        update = self.updates[index] if keep else self.updates.pop(index)
        if update.version.incarnation == str(self.incarnation):
            self.replica.follow(update)

    @rule()
    def directory_restarts(self) -> None:
        self.incarnation += 1
        self.directory = Directory(str(self.incarnation), log_limit=6)
        self.model.clear()
        self.expected.clear()

    @rule()
    def replica_catches_up(self) -> None:
        outcome = self.replica.follow(self.directory.changes_since(self.replica.version))
        assert outcome is not Synced.GAP
        self.replica.check()
        assert self.replica.version == self.directory.version
        assert self.replica.workers == self.directory.workers
        for name in self.model:
            assert self.replica.load(name) == self.directory.load(name)
        for where in NAMES:
            assert self.replica.locate(path(where)) == self.directory.locate(path(where))
            assert self.replica.holders(SegmentKey(where)) == self.directory.holders(SegmentKey(where))

    # --- what must always hold -----------------------------------------------------------------

    @invariant()
    def directory_equals_model(self) -> None:
        if not hasattr(self, "directory"):
            return
        self.directory.check()
        assert set(self.directory.workers) == set(self.model)
        for where in NAMES:
            steps = path(where)
            found = self.directory.locate(steps)
            for name, known in self.model.items():
                assert found.get(name, Residency()) == self.naive_locate(name, known, steps)
        for name, known in self.model.items():
            assert self.directory.load(name).running == known.running

    @invariant()
    def an_up_to_date_directory_knows_the_truth(self) -> None:
        if not hasattr(self, "directory"):
            return
        for state in self.directory.snapshot().workers:
            sim = self.sims[state.info.worker]
            if state.synced and state.info == sim.info and state.sequence == sim.sequence - 1:
                assert {event.key: event for event in state.held} == sim.held

    def naive_locate(self, name: WorkerId, known: Model, steps: tuple[PathStep, ...]) -> Residency:
        tokens = dict.fromkeys(Tier, 0)
        if not known.synced:
            return Residency()
        coming = {s.key for d in self.expected.values() if d.worker == name for s in d.path}
        for last in range((steps[-1].end_tokens - 1) // BLOCK):
            token = (last + 1) * BLOCK - 1
            step = next(s for s in steps if s.start_tokens <= token < s.end_tokens)
            event = known.held.get(step.key)
            if step.key in coming:
                tokens[Tier.DEVICE] += BLOCK
            elif event is not None and event.prefix_tokens > token:
                tokens[event.tier] += BLOCK
            else:
                break
        return Residency(tokens[Tier.DEVICE], tokens[Tier.HOST], tokens[Tier.DISK])


TestDirectoryMachine = DirectoryMachine.TestCase
TestDirectoryMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
