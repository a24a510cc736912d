"""All runs of a comparison: workloads x seeds x cache sizes x policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.policies.oracle import FarthestNextUse, Future
from benchmarks.policies.paths import Replay, replay_of
from benchmarks.policies.replay import Result, replay
from mygo.emulation import profile as profiles
from mygo.tree.loading import PrefillSeconds
from mygo.tree.policies import POLICIES
from mygo.tree.profile import prefill_s
from mygo.workloads.cut import first
from mygo.workloads.files import load
from mygo.workloads.presets import preset

ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Workload:
    """A preset by name, or a recorded trace by path."""

    preset: str | None
    path: Path | None = None

    @property
    def name(self) -> str:
        return self.preset or (self.path.stem if self.path else "")

    def seeds(self, seeds: int) -> range:
        """A recorded trace is what it is: it has one."""
        return range(1, seeds + 1) if self.preset else range(1)

    def replay(self, seed: int, requests: int | None, single: bool) -> Replay:
        """Raises BadTrace."""
        if self.preset is not None:
            trace = preset(self.preset).trace(seed, requests=requests)
        else:
            assert self.path is not None
            trace = load(self.path)
            trace = trace if requests is None else first(trace, requests)
        return replay_of(trace, single=single)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same in all runs."""

    profile: str
    policies: tuple[str, ...]
    sizes: tuple[float, ...]
    """Capacities as shares of the working set."""
    seeds: int
    requests: int | None = None
    """Of each trace, from its beginning; None: all."""
    single: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    workload: str
    seed: int
    size: float
    policy: str
    """A policy's name, or ``ORACLE``."""
    capacity_tokens: int
    result: Result


def run_all(
    workloads: Sequence[Workload], setting: Setting, jobs: int, done: Callable[[str], None]
) -> list[Run]:
    """Every run of the comparison; ``done`` hears of each trace that is finished. Raises MygoError."""
    tasks = [(workload, seed, setting) for workload in workloads for seed in workload.seeds(setting.seeds)]
    found: list[Run] = []
    for task, runs in _in_processes(tasks, jobs):
        done(f"{task[0].name}, seed {task[1]}")
        found.extend(runs)
    return found


_Task = tuple[Workload, int, Setting]


def _in_processes(tasks: list[_Task], jobs: int) -> Iterator[tuple[_Task, list[Run]]]:
    if jobs == 1:
        yield from ((task, _runs_of(task)) for task in tasks)
        return
    with get_context("spawn").Pool(min(jobs, len(tasks))) as pool:
        yield from zip(tasks, pool.imap(_runs_of, tasks), strict=True)


def _runs_of(task: _Task) -> list[Run]:
    """All sizes and policies on one trace."""
    workload, seed, setting = task
    # Traces ask for the same few costs over and over.
    cost_s = lru_cache(maxsize=None)(partial(prefill_s, profiles.load(setting.profile).prefill))
    trace = workload.replay(seed, setting.requests, setting.single)
    runs: list[Run] = []
    for size in setting.sizes:
        capacity = int(size * trace.working_set_tokens)
        found = {name: replay(trace, capacity, POLICIES[name], cost_s) for name in setting.policies}
        found[ORACLE] = _oracle(trace, capacity, cost_s)
        runs.extend(Run(workload.name, seed, size, name, capacity, result) for name, result in found.items())
    return runs


def _oracle(trace: Replay, capacity: int, cost_s: PrefillSeconds) -> Result:
    future = Future(trace.accesses)
    return replay(
        trace, capacity, lambda tree, tokens: FarthestNextUse(future), cost_s, served=future.move_to
    )
