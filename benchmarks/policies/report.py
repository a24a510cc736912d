"""A comparison as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.policies.study import ORACLE, Run, Setting

BASELINE = "lru"


@dataclass(frozen=True, slots=True)
class Line:
    """One policy at one cache size, over the seeds."""

    workload: str
    size: float
    policy: str
    saved_share: float
    """Mean cost-weighted hit ratio: prefill seconds saved over cold prefill seconds."""
    spread: float
    """Standard deviation of ``saved_share`` over the seeds; 0 with one."""
    token_hit_ratio: float
    hits: float
    gap_closed: float | None
    """Share of the way from LRU to the oracle, of the means; None if there is no way to go."""


def lines(runs: Sequence[Run]) -> list[Line]:
    """Of each workload and size, the policies from worst to best."""
    cells: dict[tuple[str, float], dict[str, list[Run]]] = {}
    for run in runs:
        cells.setdefault((run.workload, run.size), {}).setdefault(run.policy, []).append(run)
    found: list[Line] = []
    for (workload, size), by_policy in cells.items():
        shares = {name: [run.result.saved_share for run in those] for name, those in by_policy.items()}
        low = mean(shares[BASELINE]) if BASELINE in shares else None
        high = mean(shares[ORACLE])
        of_cell = [
            Line(
                workload,
                size,
                name,
                mean(shares[name]),
                stdev(shares[name]) if len(those) > 1 else 0.0,
                mean(run.result.token_hit_ratio for run in those),
                mean(run.result.hits for run in those),
                None if low is None or high <= low else (mean(shares[name]) - low) / (high - low),
            )
            for name, those in by_policy.items()
        ]
        found.extend(sorted(of_cell, key=lambda line: line.saved_share))
    return found


def beaten(runs: Sequence[Run], default: str) -> list[str]:
    """Where another policy saves more than ``default``: by more than two standard errors of the
    difference over paired seeds, or at all with one seed. One sentence each; none if it is nowhere."""
    cells: dict[tuple[str, float], dict[str, dict[int, float]]] = {}
    for run in runs:
        by_policy = cells.setdefault((run.workload, run.size), {})
        by_policy.setdefault(run.policy, {})[run.seed] = run.result.saved_share
    found: list[str] = []
    for (workload, size), by_policy in cells.items():
        for name, theirs in by_policy.items():
            if name in (default, ORACLE) or default not in by_policy:
                continue
            gains = [share - by_policy[default][seed] for seed, share in theirs.items()]
            noise = 2 * stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
            if mean(gains) > noise:
                found.append(f"{workload} at {size:.0%}: {name} saves {mean(gains):.4f} more than {default}")
    return found


def markdown(runs: Sequence[Run], setting: Setting, origin: str, default: str) -> str:
    """The report: one table per workload, a row per policy, a column per cache size."""
    found = lines(runs)
    parts = [
        "# Replacement policies on traces\n",
        f"{origin}. Prefill priced by `{setting.profile}`; one tier; no request overlaps another.",
        "Cells: prefill seconds saved / cold prefill seconds, mean ± standard deviation over seeds "
        "(share of the gap from LRU to the oracle that is closed; token hit ratio). A size is a share of the "
        "working set: the tokens of all distinct texts in their paths, questions and answers not counted. "
        "The oracle knows the future and evicts what is wanted last: a yardstick, not an optimum.\n",
    ]
    for workload in dict.fromkeys(line.workload for line in found):
        those = [line for line in found if line.workload == workload]
        seeds = len({run.seed for run in runs if run.workload == workload})
        tokens = next(run.capacity_tokens / run.size for run in runs if run.workload == workload)
        sizes = list(dict.fromkeys(line.size for line in those))
        best = max(sizes)
        names = [line.policy for line in those if line.size == best]
        parts.append(f"## {workload}\n\n{seeds} seed(s), working set about {tokens:,.0f} tokens.\n")
        parts.append("| policy | " + " | ".join(f"{size:.0%}" for size in sizes) + " |")
        parts.append("| --- |" + " ---: |" * len(sizes))
        at = {(line.policy, line.size): line for line in those}
        parts.extend(
            f"| {f'**{name}**' if name == default else name} | "
            + " | ".join(_cell(at[name, size], setting) for size in sizes)
            + " |"
            for name in names
        )
        parts.append("")
    losses = beaten(runs, default)
    verdict = (
        "; ".join(losses) if losses else f"no policy saves more than {default} beyond noise, at any size"
    )
    parts.append(f"Beyond noise (two standard errors over paired seeds): {verdict}.\n")
    return "\n".join(parts)


def _cell(line: Line, setting: Setting) -> str:
    if setting.single:
        return f"{line.hits:,.0f} hits ({line.token_hit_ratio:.4f})"
    closed = "" if line.gap_closed is None else f"{line.gap_closed:.0%}; "
    return f"{line.saved_share:.4f} ± {line.spread:.4f} ({closed}{line.token_hit_ratio:.3f})"


def as_dict(runs: Sequence[Run], setting: Setting, origin: str) -> dict[str, Any]:
    """The same for machines, with every run."""
    return {
        "origin": origin,
        "setting": asdict(setting),
        "lines": [asdict(line) for line in lines(runs)],
        "runs": [asdict(run) for run in runs],
    }
