"""The report as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.bootstrap import Ratio
from benchmarks.report.compare import SLO_FACTOR
from benchmarks.report.figures import STAGES, Figures
from benchmarks.report.summary import NO_REUSE, Summary

PLOTS = {
    "ttft_cdf.png": "Time to first token, all requests of the first load",
    "ttft_load.png": "Mean time to first token against the offered rate",
    "hit_ratio.png": "Where prompt tokens came from",
    "ratios.png": "Time to first token in comparison with the baseline",
    "stages.png": "Where the time to first token goes",
}


def render(summary: Summary, plots: Sequence[str], validation: str) -> str:
    """``validation``: what is known of the emulated engine."""
    parts = [
        "# Benchmark report",
        _short(summary),
        _conditions(summary),
        _systems(summary),
        *(_load(summary, load) for load in summary.loads),
        _slo(summary),
        _notes(summary, validation),
        *(f"![{PLOTS[name]}]({name})" for name in plots),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _short(summary: Summary) -> str:
    """The one figure that most readers come for, all loads in one table."""
    rows = []
    for row in summary.rows:
        cells = [row.cells.get(load) for load in summary.loads]
        ratios = [
            "-" if cell is None else _ratio(cell.comparison.ttft_mean if cell.comparison else None)
            for cell in cells
        ]
        rows.append((row.label, *ratios))
    return (
        "How many times sooner the first token comes than from the first system of the group (mean TTFT, "
        f"with 95 % intervals; below 1: later), by load:\n\n{_table(('system', *summary.loads), rows)}"
    )


def _conditions(summary: Summary) -> str:
    run = summary.run
    engine = run["engine"]
    facts = {
        "commit": run["commit"],
        "machine": run["machine"],
        "model": f"{engine['source']}, {engine['dtype']}; blocks of {engine['block_tokens']}, steps of "
        f"at most {engine['step_tokens']} tokens, {engine['long_prefill_tokens']} of one prompt; "
        f"context {engine['max_context_tokens']}",
        "cores": f"engines {_numbers(run['engine_cores'])}, one per worker; all else (HTTP servers, Ray, "
        f"the load generator) {_numbers(run['other_cores'])}",
        "device KV per worker": f"{run['device_kv_tokens']:,} tokens",
        "host tier, where there is one": f"{run['host_kv_tokens']:,} tokens",
        "trace": f"{run['trace']}, {run['requests']} requests, seed {run['seed']}, "
        f"digest {run['trace_digest']}",
        "rounds": ", ".join(
            f"{load['name']}: {load['rounds']} of {load['per_round']}" for load in run["loads"]
        )
        + " requests per system in turn, in an order that is shuffled per round",
        "longest answer": f"{run['longest_answer']} tokens" if run["longest_answer"] else "as in the trace",
        "tiers": _throttle(run),
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _throttle(run: dict[str, object]) -> str:
    throttle = run["throttle"]
    if not isinstance(throttle, dict):
        return "not throttled: on a CPU, loads cost next to nothing beside computing; see --throttle"
    return (
        f"throttled to the ratios of {throttle['gpu']}: loading a token takes {throttle['host']:g} (host) "
        f"and {throttle['disk']:g} (disk) of computing it ({throttle['source']})"
    )


def _systems(summary: Summary) -> str:
    lines = [f"- `{row.label}` (group {row.group}): {row.summary}" for row in summary.rows]
    return (
        "All systems of a group are up together and take turns over the same requests; ratios are to the "
        "first of the group. Every system gets the same prompt token ids (MyGO's own are checked to be the "
        "same), greedy, with answers of fixed length, and engines of one worker compute on the same core. "
        "Each request is preceded by the same embedding and FAISS search; the documents used are the "
        "trace's.\n\n" + "\n".join(lines)
    )


def _load(summary: Summary, load: str) -> str:
    cells = summary.cells(load)
    rate = next((cell.figures.rate for _, cell in cells if cell.figures.rate is not None), None)
    title = f"## Load {load}" + (f": {rate:.3g} requests/s" if rate is not None else "")
    latency = _table(
        (
            "system",
            "TTFT mean",
            "p50",
            "p95",
            "p99",
            "e2e p50",
            "p95",
            "p99",
            "ITL p50",
            "p99",
            "requests/s",
            "failed",
        ),
        (
            (
                row.label,
                *_seconds(cell.figures),
                f"{cell.figures.served_rate:.3f}",
                str(cell.figures.failed),
            )
            for row, cell in cells
        ),
    )
    reuse = _table(
        (
            "system",
            "TTFT mean ratio",
            "TTFT median ratio",
            "e2e mean ratio",
            "cached",
            "by tier",
            "computed tokens",
            "same answers",
            "first difference",
        ),
        (
            (
                row.label,
                *(
                    _ratio(each)
                    for each in (
                        (cell.comparison.ttft_mean, cell.comparison.ttft_median, cell.comparison.e2e_mean)
                        if cell.comparison
                        else (None, None, None)
                    )
                ),
                f"{sum(cell.figures.cached_ratio.values()):.1%}",
                ", ".join(f"{tier} {share:.1%}" for tier, share in cell.figures.cached_ratio.items() if share)
                or "-",
                f"{cell.figures.computed_tokens:,}",
                f"{cell.agreement.identical}/{cell.agreement.requests}" if cell.agreement else "-",
                f"token {cell.agreement.first_divergence:.1f}"
                if cell.agreement and cell.agreement.first_divergence is not None
                else "-",
            )
            for row, cell in cells
        ),
    )
    stages = _table(
        ("system", *(f"{stage}, s" for stage in STAGES), "CPU-s/request", "idle others, cores"),
        (
            (
                row.label,
                *(f"{cell.figures.stages_s[stage]:.3f}" for stage in STAGES),
                f"{cell.figures.cpu_s:.2f}",
                f"{cell.figures.others_cores:.2f}",
            )
            for row, cell in cells
        ),
    )
    return f"{title}\n\nSeconds.\n\n{latency}\n\n{reuse}\n\nWhere a request's time goes (means):\n\n{stages}"


def _slo(summary: Summary) -> str:
    if summary.slo_s is None:
        return ""
    table = _table(
        ("system", "within the baseline's objective", "within its own", "own objective, s"),
        (
            (
                row.label,
                _rate(row.slo_rate),
                _rate(row.own_slo_rate),
                f"{row.own_slo_s:.2f}" if row.own_slo_s is not None else "-",
            )
            for row in summary.rows
        ),
    )
    return (
        f"## Throughput at the objective\n\nThe highest offered rate (requests/s) up to which the mean TTFT "
        f"stays below {SLO_FACTOR:g} times the mean TTFT at the lowest rate: the baseline's, "
        f"{summary.slo_s:.2f} s, for all; and each system's own.\n\n{table}"
    )


def _notes(summary: Summary, validation: str) -> str:
    lines = [
        "TTFT and e2e count from arrival: retrieval, queues and loading are in them. A ratio is the "
        "baseline's over the system's (above 1: less time), with a 95 % interval from resampled rounds.",
        "`queue` ends with the engine's first step for a request, `prefill` with its first token; `other` is "
        "HTTP, prompt building, routing and waiting for the embedder. `load` is the time of copies from "
        "slower tiers.",
        f"Same answers: greedy answers identical to those of `{NO_REUSE}`, which reuses nothing; in bfloat16 "
        "equal prompts can part where two tokens are nearly equally likely, because chunks are computed in "
        "other shapes. Systems that reorder documents answer another prompt and are left out.",
        "Open loads: arrivals as in the trace, scaled; each round begins with an empty queue.",
        "Every row is a real server. Emulated figures are in the reports of `python -m "
        f"benchmarks.cluster_routing` and `mygo simulate`. {validation}",
    ]
    if summary.missing:
        lines.append(f"**Not finished: {summary.missing} rounds are missing.** The same command goes on.")
    if any(cell.figures.refilled for row in summary.rows for cell in row.cells.values()):
        lines.append(
            "The run was interrupted: caches were filled again by replaying requests, unmeasured, so hit "
            "counts may differ a little from those of a run in one piece."
        )
    return "## How to read this\n\n" + "\n".join(f"- {line}" for line in lines)


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _seconds(figures: Figures) -> list[str]:
    values = [
        *(figures.ttft.mean, figures.ttft.p50, figures.ttft.p95, figures.ttft.p99),
        *(figures.e2e.p50, figures.e2e.p95, figures.e2e.p99),
        *(figures.itl.p50, figures.itl.p99),
    ]
    return [f"{value:.3f}" for value in values]


def _ratio(value: Ratio | None) -> str:
    return "1" if value is None else f"{value.estimate:.2f} ({value.low:.2f} to {value.high:.2f})"


def _rate(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
