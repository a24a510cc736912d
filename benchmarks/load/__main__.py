"""A load test of a running cluster: requests go out on their own schedule, whatever becomes of them.

    python -m benchmarks.load URL --profile ramp|steady|spike|soak [--rate R] [--duration-s S] [--preset NAME]

Ends with status 1 if the fault contract was broken, if memory grew throughout a soak, or if workers still
count requests after the last answer. Results: ``<out>/report.md``, ``report.json``, ``*.png`` and one line
per request in ``<out>/requests.jsonl``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.arguments import count, positive, whole_number
from benchmarks.harness.machine import cpu_name, usable_cores
from benchmarks.harness.manifest import digest
from benchmarks.harness.traces import load_trace
from benchmarks.load.board import Board
from benchmarks.load.client import LoadClient
from benchmarks.load.local import ROLES, LocalCluster
from benchmarks.load.profiles import PROFILES
from benchmarks.load.report import Result, write
from benchmarks.load.requests import Bodies
from benchmarks.load.run import LoadTest, run
from benchmarks.synthesis import Synthesizer
from mygo import models
from mygo.config import ClusterConfig, ModelConfig
from mygo.errors import ConfigError, MygoError
from mygo.workloads.trace import Trace


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=140 if not sys.stdout.isatty() else None)
    try:
        result = asyncio.run(_run(options, console))
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; the requests that had ended are in {options.out}/requests.jsonl", file=sys.stderr)
        return 130
    from benchmarks.load.plots import draw  # takes a second, which a wrong option should not

    text = write(result, options.out, draw(result, options.out))
    console.print(Markdown(text))
    console.print(f"written to {options.out}", markup=False)
    return 1 if result.breaches else 0


async def _run(options: argparse.Namespace, console: Console) -> Result:
    """Raises MygoError for options that make no test and for a cluster that does not answer."""
    if options.out.exists():
        folders.made_empty(options.out)
    cluster = LocalCluster.find(options.url, options.cluster_pid)
    if options.kill:
        if cluster is None:
            raise ConfigError(
                f"--kill {options.kill}: no cluster of this machine serves {options.url}; start it here with "
                "`mygo up`, or name its server with --cluster-pid"
            )
        cluster.check_has(options.kill)
    async with LoadClient(options.url, api_key=options.api_key, timeout_s=options.timeout_s) as client:
        status = await client.get("/v1/mygo/status")
        trace = load_trace(
            preset=options.preset,
            path=options.trace,
            seed=options.seed,
            requests=options.requests,
            token_scale=options.token_scale,
        )
        texts = Synthesizer(
            models.resolve(options.tokenizer, ClusterConfig().cache_dir, progress=True), seed=options.seed
        )
        bodies = Bodies(
            trace,
            texts,
            model=status["model"],
            output_tokens=options.output_tokens,
            questions_from=options.questions_from,
        )
        test = LoadTest(
            profile=options.profile,
            rate=options.rate,
            duration_s=options.duration_s,
            spike_factor=options.spike_factor,
            kill=options.kill,
            kill_every_s=options.kill_every_s,
            seed=options.seed,
        )
        folders.made(options.out)
        manifest = _manifest(options, trace, status)
        with Board(console) as board:
            if options.profile == "soak" and cluster is None:
                board.say(f"no cluster of this machine serves {options.url}: its memory is not watched")
            return await run(test, client, bodies, cluster, manifest, options.out, board)


def _manifest(options: argparse.Namespace, trace: Trace, status: dict[str, Any]) -> dict[str, Any]:
    return {
        "profile": options.profile,
        "trace": trace.name,
        "trace_digest": digest(trace),
        "trace_parameters": dict(trace.parameters),
        "requests_of_the_trace": len(trace.requests),
        "tenants": f"all {len({each.tenant for each in trace.requests})} of the trace ask with one key",
        "rate": options.rate,
        "duration_s": options.duration_s,
        "spike_factor": options.spike_factor if options.profile == "spike" else None,
        "kill": f"{options.kill} every {options.kill_every_s:g} s" if options.kill else None,
        "longest_answer": options.output_tokens,
        "timeout_s": options.timeout_s,
        "seed": options.seed,
        "questions_from": options.questions_from,
        "url": options.url,
        "model": status["model"],
        "workers": sorted({each["node"] for each in status["workers"]}),
        "replicas": len(status["workers"]),
        "routing": status["routing"]["policy"],
        "commit": revision(),
        "client": f"{cpu_name()}, {len(usable_cores())} cores",
    }


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("url", metavar="URL", help="of the cluster, such as http://127.0.0.1:8000")
    add("--profile", choices=PROFILES, default="steady", help="how the rate goes (default: steady)")
    add(
        "--rate",
        type=positive,
        default=1.0,
        metavar="R",
        help="requests/s; of a ramp, the first (default: 1)",
    )
    add("--duration-s", type=positive, default=60.0, metavar="S", help="of the test; of a ramp, of each rate")
    add(
        "--spike-factor",
        type=positive,
        default=5.0,
        metavar="F",
        help="how many times the rate (default: 5)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", default="ragpulse", help="synthetic trace (default: ragpulse)")
    source.add_argument(
        "--trace", type=Path, metavar="PATH", help="recorded trace (RAGPulse, Mooncake, or ours)"
    )
    add(
        "--requests",
        type=count,
        default=5_000,
        metavar="N",
        help="of the trace, which then begins again",
    )
    add("--token-scale", type=positive, default=1.0, metavar="F", help="multiplies the lengths of texts")
    add("--output-tokens", type=count, metavar="N", help="longest answer")
    add(
        "--tokenizer",
        default=ModelConfig().source,
        metavar="MODEL",
        help="whose tokens the trace counts; name the served model to get the trace's exact lengths",
    )
    add("--kill", choices=tuple(ROLES), help="SIGKILL a process of a cluster on this machine")
    add("--kill-every-s", type=positive, default=30.0, metavar="N", help="how often (default: 30)")
    add("--cluster-pid", type=count, metavar="PID", help="its server, if `mygo up` did not start it")
    add("--api-key", default=os.environ.get("MYGO_API_KEY"), help="(default: $MYGO_API_KEY)")
    add("--timeout-s", type=positive, default=300.0, metavar="S", help="a request that takes longer hangs")
    add(
        "--seed",
        type=whole_number,
        default=1,
        help="of the trace, its documents and the schedule (default: 1)",
    )
    add(
        "--questions-from",
        type=whole_number,
        default=time.time_ns() // 1_000_000,
        metavar="N",
        help="number of the first question; the default is the time, so that no test repeats another's",
    )
    add("--out", type=Path, metavar="DIR", help="where results go (default: results/load/<profile>)")
    options = parser.parse_args(arguments)
    options.out = options.out or Path("results/load") / options.profile
    return options


if __name__ == "__main__":
    sys.exit(main())
