"""What prefill costs when documents come from chunks, beside computing them, and what keeping them costs.

    python -m benchmarks.chunk_prefill [--rounds N] [--documents N] [--tokens N] [--repair-share S] ...
    python -m benchmarks.chunk_prefill --beside [--streams N] ...

Each round takes documents that the engine has never seen, and keeps each behind neutral ones. Then it serves
one prompt of all of them in turn: from chunks (the device knows nothing), computed while chunks are taken of
it, computed alone, and from the device; and one of other documents that might be blended and are not kept yet
(a miss), here and in a second engine without chunks. So each figure stands beside others that were measured
seconds before. CPU seconds are those of the whole engine process. With ``--beside``: what running streams
notice of such a prompt, blended and computed, as gaps between their tokens. Prints medians with their bounds,
writes all samples; exit status 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.arguments import count, positive, whole_number
from benchmarks.chunk_prefill import beside
from benchmarks.chunk_prefill.alone import Alone, Sample
from benchmarks.chunk_prefill.beside import Noticed
from benchmarks.chunk_prefill.prompts import Prompts
from benchmarks.harness.machine import cpu_name
from mygo import models
from mygo.config import Config
from mygo.errors import MygoError

CPU_SHARE = 0.22
TTFT_SHARE = 0.30
CAPTURE_SHARE = 1.05
"""Computing a prompt while chunks are taken of it, over computing it alone."""
MISS_SHARE = 1.03
"""Computing what might have been blended, and keeping it, over computing it in an engine without chunks."""
GAP_SHARE = 1.10
"""p99 of running streams' gaps beside a blended prompt, over that beside a computed one."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chunk_prefill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=count, default=7, help="default 7")
    parser.add_argument("--documents", type=count, default=4, help="of each prompt (default 4)")
    parser.add_argument("--tokens", type=count, default=400, help="of each document (default 400)")
    parser.add_argument("--repair-share", type=positive, default=0.15, help="default 0.15")
    parser.add_argument("--beside", action="store_true", help="what running streams notice of such a prompt")
    parser.add_argument("--streams", type=count, default=4, help="that decode, with --beside (default 4)")
    parser.add_argument("--seed", type=whole_number, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/chunk_prefill"), help="where samples go")
    options = parser.parse_args()
    console = Console()
    try:
        return run(options, console)
    except MygoError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        return 2


def run(options: argparse.Namespace, console: Console) -> int:
    out = folders.made(options.out)
    model = models.resolve(Config().model.source, Config().cluster.cache_dir)
    prompts = Prompts(model, options.seed)
    title = (
        f"{cpu_name()}, {revision()}, {options.documents} documents of about {options.tokens} tokens, "
        f"repair share {options.repair_share}"
    )
    if options.beside:
        noticed = beside.measure(
            model,
            prompts,
            beside.Shape(
                options.documents, options.tokens, options.streams, options.rounds, options.repair_share
            ),
        )
        console.print(f"{title}, {options.streams} streams, {options.rounds} rounds")
        holds = show_beside(console, noticed)
        path = out / "beside.json"
        path.write_text(json.dumps({kind: asdict(each) for kind, each in noticed.items()}, indent=1) + "\n")
    else:
        samples: list[Sample] = []
        with Alone(model, prompts, options.repair_share, options.seed) as bench:
            for number in range(-1, options.rounds):  # the first warms up
                documents = [prompts.document(options.tokens) for _ in range(options.documents)]
                samples += bench.round(number, documents)
        console.print(title)
        holds = show(console, [sample for sample in samples if sample.round >= 0])
        path = out / "samples.json"
        path.write_text(json.dumps([asdict(sample) for sample in samples], indent=1) + "\n")
    console.print(f"samples: {path}")
    return 0 if holds else 1


def show_beside(console: Console, noticed: Mapping[str, Noticed]) -> bool:
    """Prints the table and the bound; True if it holds."""
    table = Table(title="gaps between tokens of running streams, ms, in windows of equal length")
    for column in ("a prompt comes", "p50", "p95", "p99", "longest of a window, median", "its TTFT s"):
        table.add_column(column, justify="left" if column == "a prompt comes" else "right")
    p99_s: dict[str, float] = {}
    for kind, found in noticed.items():
        p50_s, p95_s, p99_s[kind] = np.quantile(found.gaps_s, (0.5, 0.95, 0.99)).tolist()
        longest_s = statistics.median(found.longest_s)
        ttft = f"{statistics.median(found.ttft_s):.3f}" if found.ttft_s else ""
        figures = (f"{1e3 * each:.0f}" for each in (p50_s, p95_s, p99_s[kind], longest_s))
        table.add_row(kind, *figures, ttft)
    console.print(table)
    return _hold(console, [("gap p99, blended / computed", p99_s["blended"] / p99_s["computed"], GAP_SHARE)])


def show(console: Console, samples: list[Sample]) -> bool:
    """Prints the table and the bounds; True if all of them hold."""
    kinds = {
        kind: [sample for sample in samples if sample.kind == kind]
        for kind in ("cold", "capture", "chunks", "device", "miss", "without")
    }
    cpu_s = {kind: statistics.median(each.cpu_s for each in found) for kind, found in kinds.items()}
    ttft_s = {kind: statistics.median(each.ttft_s for each in found) for kind, found in kinds.items()}
    table = Table(title="one prompt, medians")
    columns = ("where its KV came from", "computed tokens", "CPU s", "of cold", "TTFT s", "of cold")
    for column in columns:
        table.add_column(column, justify="left" if column is columns[0] else "right")
    for kind, found in kinds.items():
        computed = statistics.median(each.computed_tokens for each in found)
        shares = f"{cpu_s[kind] / cpu_s['cold']:.3f}", f"{ttft_s[kind] / ttft_s['cold']:.3f}"
        table.add_row(
            kind, f"{computed:.0f}", f"{cpu_s[kind]:.3f}", shares[0], f"{ttft_s[kind]:.3f}", shares[1]
        )
    console.print(table)
    bounds = (
        ("CPU, chunks / cold", cpu_s["chunks"] / cpu_s["cold"], CPU_SHARE),
        ("TTFT, chunks / cold", ttft_s["chunks"] / ttft_s["cold"], TTFT_SHARE),
        ("CPU, capture / cold", cpu_s["capture"] / cpu_s["cold"], CAPTURE_SHARE),
        ("CPU, miss / without chunks", cpu_s["miss"] / cpu_s["without"], MISS_SHARE),
    )
    return _hold(console, bounds)


def _hold(console: Console, bounds: Sequence[tuple[str, float, float]]) -> bool:
    for name, measured, bound in bounds:
        verdict = "holds" if measured <= bound else "[red]broken[/]"
        console.print(f"{name}: {measured:.3f}, at most {bound}: {verdict}")
    return all(measured <= bound for _, measured, bound in bounds)


if __name__ == "__main__":
    sys.exit(main())
