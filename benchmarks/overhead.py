"""What the control plane costs: MyGO without its engine beside an empty Ray Serve application.

MyGO's real ingress, dispatcher, directory, librarian, embedder and shards serve a streamed chat over
eight inline documents; its workers are stand-ins that answer at once, so neither retrieval nor
generation is in the figures. An empty two-deployment application in the same Ray Serve instance
streams as many chunks behind the same proxy. Both are asked in turn, block by block.

    python -m benchmarks.overhead [--proxy default|haproxy|both] [--rounds 10] [--requests 30]

Exit status 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bootstrap import Difference
from benchmarks.control_plane.analysis import Comparison, compare
from benchmarks.verdict import conclude

PROXIES = {"default": ("default",), "haproxy": ("haproxy",), "both": ("default", "haproxy")}
SHOWN_CPU_MS = 0.05
SHOWN_IDLE_CPU_MS = 5.0


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=110)
    console.print(
        "Workers are stand-ins that stream 20 tokens at once: retrieval and generation are excluded."
    )
    parts = _parts() if options.parts else {}
    comparisons: list[Comparison] = []
    for proxy in PROXIES[options.proxy]:
        console.print(f"{proxy}: {options.rounds} rounds of {options.requests} requests to each application")
        comparisons.append(compare(_measure(proxy, options), "mygo", "empty"))
    broken = [
        problem
        for each in comparisons
        for problem in broken_bounds(each, options.max_median_ms, options.max_cpu_ms)
    ]
    for each in comparisons:
        _print(console, each)
    if parts:
        _print_parts(console, parts)
    return conclude(console, _report(options, comparisons, parts, broken), broken, options.output)


def broken_bounds(comparison: Comparison, max_median_ms: float, max_cpu_ms: float) -> list[str]:
    """One sentence per bound that the measured difference exceeds."""
    bounds = (
        ("median latency", comparison.latency_ms, max_median_ms, "ms"),
        ("CPU", comparison.cpu_ms, max_cpu_ms, "CPU-ms"),
    )
    return [
        f"{comparison.proxy}: {name} per request is {found.estimate:.2f} {unit} above the empty application, "
        f"allowed are {limit:g}"
        for name, found, limit, unit in bounds
        if found.estimate > limit
    ]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--proxy", choices=sorted(PROXIES), default="both")
    parser.add_argument("--rounds", type=int, default=10, help="blocks per application")
    parser.add_argument("--requests", type=int, default=30, help="requests per block")
    parser.add_argument(
        "--max-median-ms", type=float, default=5.0, help="allowed above the empty application"
    )
    parser.add_argument("--max-cpu-ms", type=float, default=5.0, help="allowed above the empty application")
    parser.add_argument("--no-parts", dest="parts", action="store_false", help="skip the parts")
    parser.add_argument("--output", type=Path, default=Path("results/overhead.json"))
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.requests < 1:
        parser.error("--rounds and --requests must be at least 1")
    return options


def _measure(proxy: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mygo-overhead-") as folder:
        output = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "benchmarks.control_plane.measure", "--proxy", proxy]
        command += ["--rounds", str(options.rounds), "--requests", str(options.requests)]
        subprocess.run([*command, "--output", str(output)], check=True)
        measured: dict[str, Any] = json.loads(output.read_text())
        return measured


def _parts() -> dict[str, float]:
    # imported only here: loading a tokenizer takes seconds
    from benchmarks.control_plane import parts
    from mygo import models
    from mygo.config import Config

    config = Config()
    return parts.measure(config, models.resolve(config.model.source, config.cluster.cache_dir))


def _report(
    options: argparse.Namespace, comparisons: list[Comparison], parts: dict[str, float], broken: list[str]
) -> dict[str, Any]:
    return {
        "engine": "stand-in: retrieval and generation are excluded",
        "rounds": options.rounds,
        "requests_per_round": options.requests,
        "bounds": {"median_ms": options.max_median_ms, "cpu_ms": options.max_cpu_ms},
        "proxies": {each.proxy: asdict(each) for each in comparisons},
        "parts_us": parts,
        "broken": broken,
        "passed": not broken,
    }


def _print(console: Console, found: Comparison) -> None:
    table = Table(title=f"per streamed request of 20 tokens, {found.proxy} proxy")
    for column in ("", "MyGO", "empty", "difference", "95 % interval"):
        table.add_column(column, justify="right" if column else "left")
    rows: list[tuple[str, Difference]] = [
        ("median latency, ms", found.latency_ms),
        ("median time to first byte, ms", found.first_byte_ms),
        ("CPU, ms", found.cpu_ms),
    ]
    for name, each in rows:
        interval = f"{each.low:.2f} to {each.high:.2f}"
        table.add_row(name, f"{each.ours:.2f}", f"{each.theirs:.2f}", f"[bold]{each.estimate:+.2f}", interval)
    table.add_section()
    for process, (ours, theirs) in found.cpu_ms_by_process.items():
        if max(ours, theirs) >= SHOWN_CPU_MS:
            table.add_row(f"CPU-ms of {process}", f"{ours:.2f}", f"{theirs:.2f}", f"{ours - theirs:+.2f}", "")
    console.print(table)
    idle = ", ".join(
        f"{process} {rate:.0f}"
        for process, rate in found.idle_cpu_ms_per_s.items()
        if rate >= SHOWN_IDLE_CPU_MS
    )
    console.print(
        f"idle, taken off: {sum(found.idle_cpu_ms_per_s.values()):.0f} CPU-ms per second in all ({idle})"
    )


def _print_parts(console: Console, parts: dict[str, float]) -> None:
    table = Table(title="parts of a request, each alone in one process")
    table.add_column("part")
    table.add_column("microseconds", justify="right")
    for name, microseconds in parts.items():
        table.add_row(name, f"{microseconds:.0f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
