"""What the tiers take of an engine's scheduler: microseconds per step, and per request.

The engines in this process are made of vLLM's real scheduler, block pool and offloading, and the plugin's
real decisions; steps compute nothing, and copies and the drive take virtual time. ``off`` has no tiers;
``native`` has host memory and a disk as vLLM's own offloading treats them (LRU), ``mygo`` as MyGO ships, and
``mygo+device`` lets the tree's policy decide on the device, too. All hold the same documents and serve the
same requests in turn, a few steps at a time. ``in hooks`` is the time inside the plugin's hooks, with vLLM's
offloading where it is called from there; ``all`` is everything that vLLM's scheduler does. Of as many further
requests it is told apart in whose code the hooks' time was spent: MyGO's own, which goes as far as the
emulated drive, or vLLM's offloading; to tell takes some more of both. A ``pick`` is the choice of the next
request among --waiting ones, which a step makes again if there was no memory for it. On a machine that does
other work, too, medians are its: look at ``p10`` there.

    python -m benchmarks.tier_overhead [--segments 10000] [--running 256] [--steps 400] [--requests 200]

Exit status 1 if ``mygo`` breaks a bound, at the median: --max-step-us, all in the hooks of a step that only
decodes, and of a pick; --max-request-us, all in the hooks for a request, with vLLM's offloading;
--max-own-us, MyGO's own part of that.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.tier_stopwatch import Sample, Stopwatch
from benchmarks.verdict import conclude
from mygo.config import ModelConfig
from mygo.emulation import profile as profiles
from mygo.emulation.reports import InProcessReports
from mygo.emulation.settings import EngineSettings
from mygo.emulation.vllm_scheduler import VllmScheduler, settle_process
from mygo.tree.keys import root_key, segment_key
from mygo.tree.policies import DEFAULT_POLICY
from mygo.types import PUBLIC, GenerateRequest, RequestId, Sampling, SegmentSpan, WorkerId
from mygo.vllm_plugin.connector import REPORT_EVERY_S
from mygo.vllm_plugin.settings import TierSettings

DOCUMENT_TOKENS = 128
DOCUMENTS_PER_PROMPT = 6
DEVICE_TOKENS = 1_200_000
"""Room for all that decode until the last of them is timed: else they are preempted, and that is measured."""
HOST_TOKENS = 1_024_000
DISK_TOKENS = 4_096_000
OURS = "mygo"
STEP_S = 0.02
"""Virtual seconds of a step."""
CATCH_UP_STEPS, CATCH_UP_S = 100, 1.0
"""After prompts were computed: slow steps, until the drive has written what they left behind."""
TURN_STEPS = 20
"""Steps of one engine before it is the other's turn."""
HOOKS = (
    "on_new_request",
    "get_num_new_matched_tokens",
    "get_external_cache_hit_sources",
    "update_state_after_alloc",
    "build_connector_meta",
    "update_connector_output",
    "take_events",
    "request_finished_all_groups",
)
PARTS = {
    "hooks": "in hooks",
    "own": "of that in MyGO's own code",
    "offloading": "of that in vLLM's offloading",
    "all": "all",
}
QUEUE = ("popleft_n", "append_n", "prepend_n", "remove")
"""Of the device's free blocks, which are vLLM's unless a policy of ours decides."""


class Engine:
    """An engine whose steps are timed."""

    def __init__(self, tiers: TierSettings, block_tokens: int, *, native: bool = False) -> None:
        profile = profiles.load("llama-3-8b-h100")
        settings = EngineSettings(
            DEVICE_TOKENS,
            block_tokens,
            max_context_tokens=4_096,
            step_tokens=8_192,
            tiers=tiers,
            vllm_offloading=native,
            sibling_hold=not native,
        )
        reports = InProcessReports(WorkerId("w"), "0")
        self.scheduler = VllmScheduler(settings, profile, reports)
        self.stopwatch = Stopwatch()
        self.now_s = 0.0
        self.decoding = 0
        """Requests that decoded in the last step."""
        vllm = self.scheduler._scheduler
        vllm.connector.report_every_s = REPORT_EVERY_S  # virtual engines tell all at once
        self.tiers = vllm.connector._tiers
        self.stopwatch.wrap(vllm.connector, HOOKS)
        if tiers.device_policy != "vllm":
            self.stopwatch.wrap(vllm.kv_cache_manager.block_pool.free_block_queue, QUEUE)
        self.stopwatch.wrap_step(vllm, ("schedule", "update_from_output", "add_request"))

    @property
    def resident_segments(self) -> int:
        return sum(bool(self.tiers._held_tokens(node)) for node in self.tiers.keeper.tree.nodes())

    def step(self, step_s: float = STEP_S) -> set[RequestId]:
        """Requests that ended."""
        scheduled = self.scheduler.schedule(self.now_s)
        self.decoding = scheduled.sequences
        self.now_s = max(self.now_s, scheduled.begins_s) + step_s
        produced = self.scheduler.complete(scheduled, self.now_s)
        return {request_id for request_id, each in produced.items() if each.finished}

    def timed_step(self, *, apart: bool = False) -> Sample:
        with self.stopwatch.telling_apart() if apart else self.stopwatch.measuring() as sample:
            self.step()
        return sample

    def serve(
        self, request: GenerateRequest, *, apart: bool = False, limit_steps: int = 1_000
    ) -> tuple[Sample, int]:
        """One request to its end; what all of that took, and in how many steps. ``apart``: and whose time it
        is, which takes some more of it."""
        with self.stopwatch.telling_apart() if apart else self.stopwatch.measuring() as sample:
            self.scheduler.add(request)
            for steps in range(1, limit_steps):
                if request.request_id in self.step():
                    return sample, steps
        raise AssertionError(f"{request.request_id} does not end")

    def drain(self) -> None:
        while self.scheduler.unfinished:
            self.step()


class Requests:
    """Prompts of a system prompt, some documents and a question."""

    def __init__(self, documents: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._system = self._tokens(64)
        self._documents = [self._tokens(DOCUMENT_TOKENS) for _ in range(documents)]
        self._made = 0

    def _tokens(self, tokens: int) -> list[int]:
        return [self._rng.randrange(32_000) for _ in range(tokens)]

    def make(self, max_tokens: int) -> GenerateRequest:
        documents = self._rng.sample(self._documents, DOCUMENTS_PER_PROMPT)
        question = self._tokens(self._rng.randrange(20, 60))
        key, token_ids, spans = root_key(model="m", kv_dtype="bf16"), [], []
        for segment in (self._system, *documents, question):
            key = segment_key(key, PUBLIC, segment)
            token_ids += segment
            spans.append(SegmentSpan(key, len(token_ids), "salt"))
        self._made += 1
        return GenerateRequest(
            RequestId(f"r{self._made}"), token_ids, tuple(spans), Sampling(max_tokens=max_tokens)
        )


def tiers_on(**overrides: str) -> TierSettings:
    kv_bytes = profiles.load("llama-3-8b-h100").kv_bytes_per_token
    sizes = {"host_bytes": HOST_TOKENS * kv_bytes, "disk_bytes": DISK_TOKENS * kv_bytes}
    return TierSettings(**sizes, **overrides)  # type: ignore[arg-type]


def fill(engines: Mapping[str, Engine], requests: Requests, segments: int) -> None:
    """Until the tiers hold so many segments; all engines are asked the same."""
    while True:
        for request in [requests.make(1) for _ in range(64)]:
            for engine in engines.values():
                engine.scheduler.add(request)
        for engine in engines.values():
            engine.drain()
        if engines[OURS].resident_segments >= segments:
            return


def decode_steps(
    engines: Mapping[str, Engine], requests: Requests, running: int, steps: int
) -> dict[str, list[Sample]]:
    """Steps in which so many requests decode and nobody comes or goes."""
    for request in [requests.make(4_096) for _ in range(running)]:
        for engine in engines.values():
            engine.scheduler.add(request)
    for engine in engines.values():
        while engine.decoding < running:
            engine.step()
        for _ in range(CATCH_UP_STEPS):
            engine.step(CATCH_UP_S)
    return more_steps(engines, steps)


def more_steps(engines: Mapping[str, Engine], steps: int, *, apart: bool = False) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in engines}
    for _ in range(0, steps, TURN_STEPS):
        for name, engine in engines.items():
            samples[name] += [engine.timed_step(apart=apart) for _ in range(TURN_STEPS)]
    return samples


def single_requests(
    engines: Mapping[str, Engine],
    requests: Requests,
    count: int,
    step: Mapping[str, Sample],
    *,
    apart: bool = False,
) -> dict[str, list[Sample]]:
    """Requests one at a time, beside those that decode; less what steps take without them."""
    samples: dict[str, list[Sample]] = {name: [] for name in engines}
    for request in [requests.make(2) for _ in range(count)]:
        for name, engine in engines.items():
            taken, steps = engine.serve(request, apart=apart)
            usual = step[name]
            hooks_s = {
                hook: seconds - steps * usual.hooks_s.get(hook, 0.0)
                for hook, seconds in taken.hooks_s.items()
            }
            offloading_s = taken.offloading_s - steps * usual.offloading_s
            samples[name].append(Sample(taken.step_s - steps * usual.step_s, hooks_s, offloading_s))
    return samples


def picks(engine: Engine, requests: Requests, waiting: int, count: int) -> list[Sample]:
    """Choices among so many that wait; what the tiers hold has changed since each was last looked at."""
    for request in [requests.make(2) for _ in range(waiting)]:
        engine.scheduler.add(request)
    queue = engine.scheduler._scheduler.waiting
    samples: list[Sample] = []
    for _ in range(count):
        began = time.perf_counter()
        queue.peek_request()
        queue.settle()
        seconds = time.perf_counter() - began
        samples.append(Sample(seconds, {"pick": seconds}))
    return samples


def typical(samples: Sequence[Sample]) -> Sample:
    """The mean of the middle half."""
    middle = sorted(samples, key=lambda sample: sample.in_hooks_s)[len(samples) // 4 : -len(samples) // 4]
    names = {name for sample in middle for name in sample.hooks_s}
    hooks_s = {name: mean(sample.hooks_s.get(name, 0.0) for sample in middle) for name in names}
    return Sample(
        mean(sample.step_s for sample in middle), hooks_s, mean(sample.offloading_s for sample in middle)
    )


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=110)
    block_tokens = options.block_tokens
    engines = {
        "off": Engine(TierSettings(), block_tokens),
        "native": Engine(tiers_on(policy="lru"), block_tokens, native=True),
        OURS: Engine(tiers_on(), block_tokens),
        "mygo+device": Engine(tiers_on(device_policy=DEFAULT_POLICY), block_tokens),
    }
    requests = Requests(options.segments, seed=1)
    fill(engines, requests, options.segments)
    segments = engines[OURS].resident_segments
    console.print(
        f"{segments} resident segments, {options.running} running requests, blocks of {block_tokens} tokens"
    )
    settle_process()
    steps = decode_steps(engines, requests, options.running, options.steps)
    singles = single_requests(
        engines, requests, options.requests, {name: typical(each) for name, each in steps.items()}
    )
    apart = single_requests(
        engines,
        requests,
        options.requests // 4,
        {name: typical(each) for name, each in more_steps(engines, options.steps // 4, apart=True).items()},
        apart=True,
    )
    chosen = {OURS: picks(engines[OURS], requests, options.waiting, options.steps)}
    report = {
        "running": options.running,
        "waiting": options.waiting,
        "segments": segments,
        "document_tokens": DOCUMENT_TOKENS,
        "block_tokens": block_tokens,
        "step": figures(steps),
        "request": figures(singles) | shares(apart),
        "pick": figures(chosen),
    }
    for what in ("step", "request", "pick"):
        _print(console, what, report[what])
    broken = [
        f"{1e-6 * found:.6f} s per {what}, {PARTS[part]}, at the median: {1e-6 * bound:.6f} s are allowed"
        for what, part, bound in (
            ("step", "hooks", options.max_step_us),
            ("request", "hooks", options.max_request_us),
            ("request", "own", options.max_own_us),
            ("pick", "hooks", options.max_step_us),
        )
        if (found := report[what][part][OURS]["p50"]) > bound
    ]
    report |= {"broken": broken, "passed": not broken}
    return conclude(console, report, broken, options.output)


def figures(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Microseconds by engine; of each hook on average."""
    return {
        "hooks": {name: _spread_us([each.in_hooks_s for each in of]) for name, of in samples.items()},
        "all": {name: _spread_us([each.step_s for each in of]) for name, of in samples.items()},
        "by_hook_us": {
            name: {hook: round(1e6 * seconds, 1) for hook, seconds in typical(of).hooks_s.items()}
            for name, of in samples.items()
        },
    }


def shares(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Microseconds in the hooks by engine, told apart."""
    return {
        "own": {name: _spread_us([each.own_s for each in of]) for name, of in samples.items()},
        "offloading": {name: _spread_us([each.offloading_s for each in of]) for name, of in samples.items()},
    }


def _spread_us(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    shares = {"p10": 0.1, "p50": 0.5, "p95": 0.95, "p99": 0.99}
    at = {name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()}
    return {name: round(1e6 * each, 1) for name, each in (at | {"mean": mean(ordered)}).items()}


def _print(console: Console, what: str, found: Mapping[str, Any]) -> None:
    table = Table(title=f"microseconds per {what}")
    table.add_column("")
    for column in ("p10", "p50", "p95", "p99", "mean"):
        table.add_column(column, justify="right")
    for part, title in PARTS.items():
        for name, spread in found.get(part, {}).items():
            table.add_row(f"{title}, {name}", *(f"{value:.0f}" for value in spread.values()))
    console.print(table)
    for name, hooks in found["by_hook_us"].items():
        ranked = sorted(hooks.items(), key=lambda entry: -entry[1])
        console.print(f"{name}: " + ", ".join(f"{hook} {each:.0f}" for hook, each in ranked))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tier_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--segments", type=int, default=10_000, help="held by the tiers, at least")
    parser.add_argument(
        "--running", type=int, default=255, help="requests that decode, beside the one that is timed"
    )
    parser.add_argument(
        "--block-tokens", type=int, default=ModelConfig().block_tokens, help="by default as MyGO ships"
    )
    parser.add_argument("--waiting", type=int, default=1_000, help="requests among which one is picked")
    parser.add_argument("--steps", type=int, default=400, help="timed steps of each engine")
    parser.add_argument("--requests", type=int, default=200, help="timed requests of each engine")
    parser.add_argument("--max-step-us", type=float, default=100.0)
    parser.add_argument("--max-request-us", type=float, default=1_000.0)
    parser.add_argument("--max-own-us", type=float, default=1_000.0)
    parser.add_argument("--output", type=Path, default=Path("results/tier_overhead.json"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
