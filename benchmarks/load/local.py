"""The processes of a cluster on this machine: their memory, and killing one of them on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks import processes
from benchmarks.load.client import LoadClient
from mygo.cli import state
from mygo.errors import ConfigError

ROLES = {
    "worker": "mygo:worker",
    "directory": "mygo:directory",
    "shard": "mygo:shard",
    "engine": "VLLM::EngineCore",
}
"""What can be killed, and how its processes' labels begin."""

RECOVERY_S = 300.0
"""A cluster that is not whole again after this long has not recovered: engines take minutes to start."""
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL. Times are the load test's seconds."""

    at_s: float
    role: str
    pid: int
    recovered_s: float | None
    """When the role had its number of processes again and the cluster was ready; None if it never was."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set sizes (a shared page counts once over all) of the processes, by label."""

    at_s: float
    pss_bytes: dict[str, int]


class LocalCluster:
    """The process tree of one server on this machine."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @classmethod
    def find(cls, url: str, pid: int | None) -> LocalCluster | None:
        """The server with ``pid``, or the one that ``mygo up`` started for ``url``; None if there is none.

        Raises ConfigError if ``pid`` is no running process.
        """
        if pid is not None:
            if not processes.command(pid):
                raise ConfigError(f"--cluster-pid {pid}: no such process; give the pid of the server")
            return cls(pid)
        known = next((each for each in state.living() if each.url.rstrip("/") == url.rstrip("/")), None)
        return cls(known.pid) if known else None

    def pids(self, role: str) -> list[int]:
        """Of the living processes of ``role``."""
        return sorted(pid for pid, label in self._labels().items() if label.startswith(ROLES[role]))

    def check_has(self, role: str) -> None:
        """Raises ConfigError if no process of ``role`` lives."""
        if not self.pids(role):
            raise ConfigError(
                f"--kill {role}: the cluster (pid {self.pid}) has no process called {ROLES[role]}; emulated "
                "workers have no engine process of their own: kill a worker"
            )

    def memory(self, now_s: float) -> Memory:
        """Takes some ten milliseconds per gigabyte."""
        sizes: defaultdict[str, int] = defaultdict(int)
        for pid, label in self._labels().items():
            sizes[label] += _pss_bytes(pid)
        return Memory(round(now_s, 2), {label: size for label, size in sorted(sizes.items()) if size})

    def _labels(self) -> dict[int, str]:
        pids = processes.below(self.pid, processes.running()) | {self.pid}
        return {pid: processes.label(arguments) for pid in pids if (arguments := processes.command(pid))}


async def kill_every(
    cluster: LocalCluster,
    client: LoadClient,
    role: str,
    every_s: float,
    rng: Random,
    now_s: Callable[[], float],
    until: asyncio.Event,
) -> list[Kill]:
    """SIGKILL a process of ``role`` each ``every_s``, until ``until`` is set; returns what was killed.

    The next one waits until the cluster is whole again, so that what is tested is one fault at a time. The
    last one's recovery is waited for after ``until``, too; after one without recovery no other follows.
    """
    kills: list[Kill] = []
    due_s = now_s() + every_s
    while not await _set_within(until, due_s - now_s()):
        before = cluster.pids(role)
        victim = rng.choice(before)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        at_s = now_s()
        recovered_s = await _recovered(cluster, client, role, set(before), now_s)
        kills.append(Kill(round(at_s, 2), role, victim, recovered_s))
        if recovered_s is None:
            break
        due_s = max(due_s + every_s, now_s())
    return kills


async def watch_memory(
    cluster: LocalCluster, every_s: float, now_s: Callable[[], float], until: asyncio.Event
) -> list[Memory]:
    """Measure at once and then each ``every_s``, until ``until`` is set."""
    found = [await asyncio.to_thread(cluster.memory, now_s())]
    while not await _set_within(until, every_s):
        found.append(await asyncio.to_thread(cluster.memory, now_s()))
    return found


async def _recovered(
    cluster: LocalCluster,
    client: LoadClient,
    role: str,
    before: set[int],
    now_s: Callable[[], float],
) -> float | None:
    give_up_s = now_s() + RECOVERY_S
    while now_s() < give_up_s:
        await asyncio.sleep(_POLL_S)
        present = set(await asyncio.to_thread(cluster.pids, role))
        if present - before and len(present) >= len(before) and await client.ready():
            return round(now_s(), 2)
    return None


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
    return event.is_set()


def _pss_bytes(pid: int) -> int:
    """0 for a process that is gone or not ours."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
