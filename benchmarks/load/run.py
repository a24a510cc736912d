"""One load test, from the first request to the verdict."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.load import contract
from benchmarks.load.board import Board
from benchmarks.load.client import LoadClient
from benchmarks.load.drive import Driver
from benchmarks.load.figures import Figures, figures, holds, intervals, objective
from benchmarks.load.local import Kill, LocalCluster, Memory, kill_every, watch_memory
from benchmarks.load.profiles import Step, next_rate, steps
from benchmarks.load.report import Result
from benchmarks.load.requests import Bodies
from benchmarks.load.samples import Sample
from mygo.errors import ConfigError

INTERVALS = 12
"""Rows of the table over time."""
DRAIN_S = 30.0
"""How long after the last answer a worker may still count a request as open: reports come a few times/s."""
_SHOW_S = 0.25
_COUNTS = ("running", "waiting", "queued_tokens")


@dataclass(frozen=True, slots=True)
class LoadTest:
    """What to do."""

    profile: str
    rate: float
    """Requests/s; of a ramp, the first."""
    duration_s: float
    """Of a ramp, per rate."""
    spike_factor: float = 5.0
    kill: str | None = None
    kill_every_s: float = math.inf
    seed: int = 0


@dataclass(slots=True)
class _Ramp:
    steps: list[Figures] = field(default_factory=list)
    tried: list[tuple[float, bool]] = field(default_factory=list)
    objective_s: float | None = None


async def run(
    test: LoadTest,
    client: LoadClient,
    bodies: Bodies,
    cluster: LocalCluster | None,
    manifest: Mapping[str, Any],
    out: Path,
    board: Board,
) -> Result:
    """Run ``test``; requests go to ``out/requests.jsonl``, one line each, as they end.

    Memory is watched in a soak if there is a local ``cluster``, which a test that kills must have.
    """
    samples: list[Sample] = []
    with (out / "requests.jsonl").open("w") as raw:

        def done(sample: Sample) -> None:
            samples.append(sample)
            raw.write(json.dumps(asdict(sample)) + "\n")
            board.add(sample)

        driver = Driver(client, bodies, Random(test.seed), done)
        over = asyncio.Event()
        ramp = _Ramp()
        kills: asyncio.Task[list[Kill]] | None = None
        memory: asyncio.Task[list[Memory]] | None = None
        async with asyncio.TaskGroup() as tasks:
            shown = tasks.create_task(_show(board, driver, test.profile))
            if test.kill is not None and cluster is not None:
                killing = kill_every(
                    cluster,
                    client,
                    test.kill,
                    test.kill_every_s,
                    Random(test.seed),
                    lambda: driver.now_s,
                    over,
                )
                kills = tasks.create_task(killing)
            if test.profile == "soak" and cluster is not None:
                every_s = max(1.0, test.duration_s / 100)
                memory = tasks.create_task(watch_memory(cluster, every_s, lambda: driver.now_s, over))
            if test.profile == "ramp":
                await _ramp(test, driver, samples, ramp, board.say)
            else:
                await driver.run(
                    steps(
                        test.profile,
                        rate=test.rate,
                        duration_s=test.duration_s,
                        spike_factor=test.spike_factor,
                    )
                )
            end_s = max((each.due_s for each in samples), default=0.0) + 1e-3
            over.set()
            for task in (kills, memory):
                if task is not None:
                    await task
            shown.cancel()
    found = Result(
        manifest=dict(manifest),
        whole=figures(samples, 0.0, end_s),
        intervals=intervals(samples, end_s / INTERVALS, end_s),
        steps=ramp.steps,
        objective_s=ramp.objective_s,
        tried=ramp.tried,
        kills=kills.result() if kills else [],
        memory=memory.result() if memory else [],
    )
    found.breaches.extend(contract.breaches(samples, driver.sent, found.kills))
    if found.memory:
        found.breaches.extend(contract.growth(found.memory, found.kills))
    if left := await _left_open(client):
        found.breaches.append(f"{DRAIN_S:g} s after the last answer {left}")
    return found


async def _ramp(
    test: LoadTest, driver: Driver, samples: list[Sample], ramp: _Ramp, say: Callable[[str], None]
) -> None:
    """One rate after the other; each begins when every request of the last one has ended."""
    while (rate := next_rate(ramp.tried, test.rate)) is not None:
        begin_s = await driver.run([Step(rate, test.duration_s)], first_step=len(ramp.tried))
        step = figures(samples, begin_s, begin_s + test.duration_s)
        held = holds(step, ramp.objective_s)
        if ramp.objective_s is None:
            ramp.objective_s = objective(step)
        ramp.steps.append(step)
        ramp.tried.append((rate, held))
        say(
            f"{rate:.2f} requests/s: mean TTFT {step.ttft.mean:.3f} s (objective {ramp.objective_s:.3f} s), "
            f"{step.lost_share:.1%} not served: {'held' if held else 'broke'}"
        )


async def _show(board: Board, driver: Driver, what: str) -> None:
    while True:
        board.show(driver, what)
        await asyncio.sleep(_SHOW_S)


async def _left_open(client: LoadClient) -> str:
    """What still counts requests after ``DRAIN_S``, in words; empty once nothing does."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + DRAIN_S
    while True:
        try:
            status = await client.get("/v1/mygo/status")
        except ConfigError as error:
            left = f"the cluster does not say whether it is idle: {error}"
        else:
            busy = {worker["id"]: {name: worker[name] for name in _COUNTS} for worker in status["workers"]}
            busy = {worker: counts for worker, counts in busy.items() if any(counts.values())}
            left = f"workers still count requests: {busy}" if busy else ""
        if not left or loop.time() > give_up_s:
            return left
        await asyncio.sleep(_SHOW_S)
