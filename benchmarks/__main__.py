"""MyGO beside the systems that people would use otherwise: one run, one machine, one table.

    python -m benchmarks [--full] [--systems a,b] [--preset NAME | --trace PATH] [--out DIR] ...

Without options: a smoke run of a few minutes. ``--full`` is the real one. A run goes on where it stopped.
Results: ``<out>/report.md``, ``report.json``, ``*.png``, and one line per request in ``<out>/raw``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.arguments import count, positive, whole_number
from benchmarks.harness.machine import available_gb, kv_bytes_per_token, usable_cores
from benchmarks.harness.manifest import known_groups, manifest_of
from benchmarks.harness.plan import check_loads, groups, parse_load
from benchmarks.harness.records import RunFolder
from benchmarks.harness.runner import Plan, Runner
from benchmarks.harness.traces import load_trace
from benchmarks.report.write import write_report
from benchmarks.systems import BASELINE, SYSTEMS, choose
from benchmarks.systems.mygo_cluster import DISK_PER_HOST
from benchmarks.systems.system import Settings
from benchmarks.systems.throttle import GPUS, ratios
from mygo import models
from mygo.config import ClusterConfig, EmbedderConfig, ModelConfig
from mygo.errors import ConfigError, MygoError
from mygo.simulation.working_set import working_set_tokens
from mygo.workloads.trace import Trace

LARGEST_PROMPTS = 2
"""vLLM wants room for one prompt of full length, and half of its KV is the longest prompt here."""
TEMPLATE_TOKENS = 64
HOST_PER_DEVICE = 2


@dataclass(frozen=True)
class Size:
    """Defaults of the options that decide how long a run takes."""

    systems: str
    loads: tuple[str, ...]
    requests: int
    per_round: int
    open_per_round: int
    """Long enough for queues to build up: each round of an open load begins with none."""
    token_scale: float
    output_tokens: int
    kv_tokens: int
    host_kv_tokens: int


SMOKE = Size(
    systems="vllm,vllm-prefix,mygo",
    loads=("closed:1", "open:70%"),
    requests=12,
    per_round=3,
    open_per_round=3,
    token_scale=0.2,
    output_tokens=8,
    kv_tokens=8_192,
    host_kv_tokens=32_768,
)
FULL = Size(
    systems="vllm,vllm-prefix,vllm-offload-lru,vllm-offload-arc,vllm-offload-fs,lmcache,sglang,mygo,"
    "mygo-order-cache",
    loads=("closed:1", "open:40%", "open:80%", "open:120%", "open:160%"),
    requests=160,
    per_round=8,
    open_per_round=40,
    token_scale=0.33,
    output_tokens=16,
    kv_tokens=12_288,
    host_kv_tokens=49_152,
)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=140 if not sys.stdout.isatty() else None)
    if options.list:
        for name, system in SYSTEMS.items():
            console.print(f"{name:24} {system.problem() or system.summary}", markup=False, highlight=False)
        return 0
    # a terminated run stops its servers, as an interrupted one does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not options.report:
            run(options, console)
        text = write_report(options.out)
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}\nWhat was finished is kept: the same command goes on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130
    console.print(Markdown(text))
    console.print(f"written to {options.out}", markup=False)
    return 0


def run(options: argparse.Namespace, console: Console) -> None:
    """Raises MygoError for options that make no run, RuntimeError if a system does not start."""
    names = (
        choose(options.systems.split(","))
        if options.systems is not None
        else _installed(options.size, console)
    )
    if options.aa:
        names = [each for name in names for each in (name, name)]
    baseline = BASELINE if BASELINE in names else names[0]
    loads = [parse_load(each) for each in options.load]
    check_loads(loads)
    trace = load_trace(
        preset=options.preset,
        path=options.trace,
        seed=options.seed,
        requests=options.requests,
        token_scale=options.token_scale,
    )
    if options.kv_share is not None:
        _share_of_working_set(options, trace)
    settings = _settings(options, tuple(sorted({each.tenant for each in trace.requests})))
    cores = max(SYSTEMS[name].workers for name in names)
    if len(settings.cores) < cores:
        raise ConfigError(
            f"--systems: {cores} workers need {cores} cores, this machine has {len(settings.cores)}"
        )
    memory_gb = {name: _memory_gb(name, settings) for name in names}
    plan = Plan(
        trace=trace,
        groups=known_groups(RunFolder(options.out).manifest(), names, baseline)
        or groups(names, baseline, memory_gb, available_gb()),
        loads=loads,
        per_round=options.per_round,
        open_per_round=options.open_per_round,
        output_tokens=options.output_tokens,
        seed=options.seed,
        settings=settings,
        throttle=ratios(options.throttle) if options.throttle else None,
    )
    with RunFolder.opened(options.out, manifest_of(plan)) as folder:
        # imported late: they take seconds, and a wrong option should not
        from benchmarks.harness.prompts import Layout
        from benchmarks.harness.retrieval import Retrieval
        from mygo.retrieval.embed import Embedder

        layout = Layout(settings.model, settings.model_path, options.seed)
        layout.check(trace)
        embedder = EmbedderConfig()
        embedder_path = models.resolve(embedder.source, settings.cache_dir, progress=True)
        retrieval = Retrieval(Embedder(str(embedder_path), embedder.batch))
        asyncio.run(Runner(plan, folder, layout, retrieval, console).run())


def _share_of_working_set(options: argparse.Namespace, trace: Trace) -> None:
    """Set the sizes of the tiers. Some tokens of a prompt are the chat template's, not the trace's."""
    working_set = working_set_tokens(trace)
    answer_tokens = options.output_tokens
    largest = (
        max(trace.prompt_tokens(request) for request in trace.requests) + TEMPLATE_TOKENS + answer_tokens
    )
    options.kv_tokens = max(round(options.kv_share * working_set), LARGEST_PROMPTS * largest)
    options.host_kv_tokens = round(HOST_PER_DEVICE * options.kv_share * working_set)


def _installed(size: Size, console: Console) -> list[str]:
    """The size's systems that can run here; says which cannot, and why."""
    names = size.systems.split(",")
    for name in names:
        if problem := SYSTEMS[name].problem():
            console.print(f"without {name}: {problem}", markup=False, highlight=False)
    return choose([name for name in names if SYSTEMS[name].problem() is None])


def _settings(options: argparse.Namespace, tenants: tuple[str, ...]) -> Settings:
    model = ModelConfig()
    cache_dir = ClusterConfig().cache_dir
    model_path = models.resolve(model.source, cache_dir, progress=True)
    per_token = kv_bytes_per_token(model_path, model.dtype)
    return Settings(
        model=model.model_copy(
            update={
                "kv_cache_bytes": options.kv_tokens * per_token,
                # vLLM wants room for one prompt of full length, and a cache of one prompt would be none
                "max_context_tokens": min(model.max_context_tokens, options.kv_tokens // 2),
            }
        ),
        model_path=model_path,
        cache_dir=cache_dir,
        cores=usable_cores(),
        host_kv_bytes=options.host_kv_tokens * per_token,
        kv_bytes_per_token=per_token,
        tenants=tenants,
    )


def _memory_gb(name: str, settings: Settings) -> float:
    system = SYSTEMS[name]
    kv_bytes = system.workers * settings.model.kv_cache_bytes + system.host_tier * settings.host_kv_bytes
    return system.memory_gb + kv_bytes / 1e9


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--full", action="store_true", help="the real size (hours, resumable) in place of the smoke size")
    add("--systems", metavar="A,B", help="rows of the table; --list names them; one named twice runs twice")
    add(
        "--aa", action="store_true", help="run every system against itself: what a ratio of 1 looks like here"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", default="ragpulse", help="synthetic trace (default: ragpulse)")
    source.add_argument(
        "--trace", type=Path, metavar="PATH", help="recorded trace (RAGPulse, Mooncake, or ours)"
    )
    add("--requests", type=count, metavar="N", help="length of the trace")
    add(
        "--per-round", type=count, metavar="N", help="requests that a system serves in its turn, closed loads"
    )
    add("--open-per-round", type=count, metavar="N", help="the same, open loads")
    add("--load", action="append", metavar="LOAD", help="closed:N, open:R (requests/s), open:P%%; repeatable")
    add("--token-scale", type=positive, metavar="F", help="multiplies the lengths of texts")
    add("--output-tokens", type=count, metavar="N", help="longest answer")
    add("--kv-tokens", type=count, metavar="N", help="device KV per worker")
    add("--host-kv-tokens", type=count, metavar="N", help="host tier, where there is one")
    add(
        "--kv-share",
        type=positive,
        metavar="F",
        help="in place of both: device KV as a share of the trace's working set, but two of its largest "
        f"prompts at least; the host tier has {HOST_PER_DEVICE} times that share, the disk "
        f"{HOST_PER_DEVICE * DISK_PER_HOST} times",
    )
    add("--throttle", metavar="GPU", help=f"slow tiers down to a GPU's ratios: {', '.join(GPUS)}")
    add("--seed", type=whole_number, default=1)
    add("--out", type=Path, metavar="DIR", help="where results go (default: results/bench/smoke or full)")
    add("--report", action="store_true", help="write the report of --out again and run nothing")
    add("--list", action="store_true", help="name the systems, and why one cannot run here")
    options = parser.parse_args(arguments)
    options.size = size = FULL if options.full else SMOKE
    options.load = options.load or list(size.loads)
    options.out = options.out or Path("results/bench") / ("full" if options.full else "smoke")
    for name in (
        "requests",
        "per_round",
        "open_per_round",
        "token_scale",
        "output_tokens",
        "kv_tokens",
        "host_kv_tokens",
    ):
        if getattr(options, name) is None:
            setattr(options, name, getattr(size, name))
    return options


if __name__ == "__main__":
    sys.exit(main())
