"""The study as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.tiers.compare import Line, Verdict, verdicts
from benchmarks.tiers.measure import CLIENTS, SLO_FACTOR, Ground
from benchmarks.tiers.plan import ABLATIONS, SYSTEMS, Cell, Setting
from benchmarks.tiers.sustained import Sustained
from mygo.emulation.profile import EngineProfile


@dataclass(frozen=True, slots=True)
class CellResult:
    """All systems of one cell, ours first."""

    cell: Cell
    ground: Ground
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Study:
    """All that was found."""

    cells: list[CellResult]
    sustained: dict[str, list[Sustained]]
    """By workload; ours first."""


def all_verdicts(study: Study) -> list[Verdict]:
    return [verdict for result in study.cells for verdict in verdicts(result.cell, result.lines)]


def as_dict(study: Study, setting: Setting, origin: str) -> dict[str, Any]:
    return {
        "emulated": True,
        "origin": origin,
        "setting": asdict(setting),
        "cells": [
            {
                "preset": result.cell.preset,
                "load": result.cell.load,
                "ground": asdict(result.ground),
                "systems": [asdict(line) | {"system": line.system.name} for line in result.lines],
            }
            for result in study.cells
        ],
        "sustained": {
            preset: [asdict(each) | {"system": each.system.name} for each in found]
            for preset, found in study.sustained.items()
        },
        "verdicts": [asdict(verdict) for verdict in all_verdicts(study)],
    }


def markdown(
    study: Study,
    setting: Setting,
    profile: EngineProfile,
    origin: str,
    pictures: Sequence[str],
    validation: str,
) -> str:
    host_us, disk_us = 1e6 * profile.host_load_s_per_token, 1e6 * profile.disk_load_s_per_token
    parts = [
        "# Tiers, emulated",
        f"{origin}. Virtual time: vLLM's scheduler and offloading with the tiers' own code; seconds of "
        f"{profile.model} on {profile.device}, where loading a token takes {host_us:.1f} us from host memory "
        f"and {disk_us:.1f} us from disk. {validation}",
        f"Memory, as shares of the working set: device {setting.device_share:.0%}, host "
        f"{setting.host_share:.0%}, disk {setting.disk_share:.0%}; answers scaled by "
        f"{setting.output_scale:g}. Prompts, documents' order and steps of at most {setting.step_tokens} "
        "tokens are the same for all. Loads are shares of "
        f"what a closed loop of {CLIENTS} clients gets through vLLM's native offloading (LRU). The promise "
        f"is {SLO_FACTOR} times the mean TTFT of prompts that are computed alone; goodput counts requests "
        "that keep it. Intervals (95 %) resample seeds.",
        "\n".join(f"![]({name})" for name in pictures),
        "\n".join(f"- `{system.name}`: {system.meaning}" for system in (*SYSTEMS, *ABLATIONS)),
        "## Targets",
        "The limit is what unbounded host memory reaches in our place: no replacement gets further.",
        table(
            ["cell", "target", "found", "limit", "met"],
            [
                [
                    verdict.cell.name,
                    verdict.target,
                    verdict.found,
                    f"{verdict.limit:.3f}",
                    "yes" if verdict.met else "**no**",
                ]
                for verdict in all_verdicts(study)
            ],
        ),
        "## Rate sustained",
        "The highest rate whose mean TTFT keeps the promise, between the loads that were run; at a bound: "
        "in some seed it lies outside of them, and the highest or lowest one counts.",
        *(_sustained(preset, found) for preset, found in study.sustained.items()),
    ]
    for result in study.cells:
        parts += _cell(result)
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(result: CellResult) -> list[str]:
    ground = result.ground
    rows = [
        [
            f"`{line.system.name}`",
            f"{line.goodput_per_s:.3f}",
            *(f"{1e3 * seconds:.0f}" for seconds in (line.ttft_mean_s, line.ttft_p50_s, line.ttft_p99_s)),
            f"{1e3 * line.itl_p99_s:.1f}",
            *(f"{100 * line.hits[tier]:.1f}" for tier in ("device", "host", "disk")),
            str(line.ttft_ratio),
            str(line.goodput_ratio),
            str(line.itl_ratio),
        ]
        for line in result.lines
    ]
    return [
        f"## {result.cell.name}",
        f"{ground.requests} requests per seed, behind {ground.warmup} that fill the caches, "
        f"{result.cell.load * ground.saturation_per_s:.2f} a second; "
        f"working set {ground.working_set_tokens:,} tokens, device {ground.device_tokens:,}; a cache without "
        f"bounds would hold {ground.reusable_share:.1%} of the prompts; promise {1e3 * ground.slo_s:.0f} ms.",
        table(
            [
                "system",
                "goodput /s",
                "TTFT mean ms",
                "p50",
                "p99",
                "ITL p99 ms",
                "device %",
                "host %",
                "disk %",
                "its TTFT / ours",
                "our goodput / its",
                "our ITL p99 / its",
            ],
            rows,
        ),
    ]


def _sustained(preset: str, found: Sequence[Sustained]) -> str:
    head = [preset, "requests/s", "ours / its"]
    return table(
        head,
        [
            [
                f"`{each.system.name}`",
                f"{each.rate_per_s:.2f}" + (" (at a bound)" if each.bounded_seeds else ""),
                str(each.ratio),
            ]
            for each in found
        ],
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    bars = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([bars[0], "|" + " --- |" * len(head), *bars[1:]])
