"""What a trace is like, beside what it should be like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mygo.cli.terminal import out
from mygo.errors import BadTrace
from mygo.workloads import PRESETS, Trace, describe, first, load, preset, save, scaled
from mygo.workloads.statistics import measures


@dataclass(frozen=True, slots=True)
class Wish:
    """Which trace, and what to make of it. None leaves a figure as the preset or the file has it."""

    what: str
    """A preset's name or a file."""
    seed: int | None = None
    requests: int | None = None
    rate_per_s: float | None = None
    token_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Described:
    trace: Trace
    source: str
    measured: dict[str, float]
    targets: dict[str, float]
    """Published figures, by the same names; empty for a file."""


def find(wish: Wish) -> Described:
    """Make or read the trace. Raises BadTrace if there is neither such a preset nor such a file, or if a
    file is given a seed."""
    if wish.what in PRESETS or not _names_a_file(wish.what):
        chosen = preset(wish.what)
        trace = chosen.trace(
            0 if wish.seed is None else wish.seed,
            requests=wish.requests,
            rate_per_s=wish.rate_per_s,
            token_scale=wish.token_scale,
        )
        return Described(trace, chosen.source, chosen.measured(trace), dict(chosen.targets))
    if wish.seed is not None:
        raise BadTrace(f"--seed: {wish.what} is recorded; only presets ({', '.join(PRESETS)}) take a seed")
    trace = load(Path(wish.what))
    if wish.requests is not None:
        trace = first(trace, wish.requests)
    trace = scaled(trace, rate_per_s=wish.rate_per_s, token_scale=wish.token_scale)
    return Described(trace, trace.parameters.get("source", wish.what), measures(describe(trace)), {})


def show(found: Described) -> None:
    """The table: every figure, and the published one where there is one."""
    seed = "" if found.trace.seed is None else f", seed {found.trace.seed}"
    out.print(f"{found.trace.name}{seed}", style="bold", markup=False)
    out.print(found.source, markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    table.add_column("trace", justify="right")
    if found.targets:
        table.add_column("target", justify="right")
    for name, value in found.measured.items():
        target = found.targets.get(name)
        cells = [_shown(value), "" if target is None else _shown(target)]
        table.add_row(name, *cells[: 2 if found.targets else 1])
    out.print(table)


def write(trace: Trace, path: Path, *, silent: bool) -> None:
    """Save ``trace`` and say so, unless ``silent``.

    Raises BadTrace if the file is there already, or cannot be written.
    """
    if path.exists():
        raise BadTrace(f"--out: {path} exists; give another path, or remove it")
    save(trace, path)
    if not silent:
        out.print(f"written to {path}; `mygo trace {path}` reads it", markup=False)


def as_json(found: Described) -> dict[str, object]:
    """For machines."""
    return {
        "name": found.trace.name,
        "seed": found.trace.seed,
        "source": found.source,
        "measured": found.measured,
        "targets": found.targets,
        "parameters": dict(found.trace.parameters),
    }


def _names_a_file(what: str) -> bool:
    return Path(what).exists() or "/" in what or what.endswith(".jsonl")


def _shown(value: float) -> str:
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
