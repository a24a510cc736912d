"""Routers on the same traces, over emulated workers in virtual time.

    python -m benchmarks.cluster_routing [--full] [--presets a,b] [--workers 16,64] [--loads 0.3,0.6] ...

MyGO's router and the baselines run in the production directory and routing desk, over vLLM's own
scheduler in each emulated worker. The thresholds of ``prefix_affinity`` are swept and its best setting is
what ours (with its defaults) is compared with. Prints the report; writes ``report.md``, ``report.json``,
plots, one line per run in ``runs.jsonl`` and one CSV per run in ``raw/``. The same command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.accept import revision
from benchmarks.arguments import count, positive
from benchmarks.cluster_routing.measure import Setting
from benchmarks.cluster_routing.plan import FULL, SMOKE, Size
from benchmarks.cluster_routing.plots import draw
from benchmarks.cluster_routing.report import as_dict, markdown
from benchmarks.cluster_routing.store import Store
from benchmarks.cluster_routing.study import Study
from benchmarks.report.validation import last_check
from mygo.emulation import profile as profiles
from mygo.errors import ConfigError, MygoError

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(stderr=True)
    try:
        size = _size(options)
        setting = Setting(options.profile, options.output_scale, options.device_share)
        profiles.load(setting.profile)
        commit = revision()
        store = Store(options.out, {"commit": commit, "size": asdict(size), "setting": asdict(setting)})
        say = lambda text: console.print(text, markup=False, highlight=False)  # noqa: E731
        study = Study(size, setting, store, options.jobs, say).run()
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130
    command = " ".join(["python -m benchmarks.cluster_routing", *(arguments or sys.argv[1:])])
    origin = f"Commit {commit}, `{command}`"
    text = markdown(study, setting, origin, draw(study, options.out), last_check())
    (options.out / "report.md").write_text(text)
    (options.out / "report.json").write_text(json.dumps(as_dict(study, setting, origin), indent=1) + "\n")
    Console(width=180 if not sys.stdout.isatty() else None).print(Markdown(text))
    console.print(f"written to {options.out}", markup=False)
    return 0


def _size(options: argparse.Namespace) -> Size:
    """The named size with the options' changes. Raises MygoError for what cannot be."""
    size = FULL if options.full else SMOKE
    changes = {
        "presets": _list("--presets", options.presets, str),
        "workers": _list("--workers", options.workers, int),
        "loads": _list("--loads", options.loads, float),
        "seeds": options.seeds,
        "requests_per_worker": options.requests_per_worker,
        "min_matches": _list("--min-matches", options.min_matches, float),
        "imbalances": _list("--imbalances", options.imbalances, int),
        "recompute_weights": _list("--recompute-weights", options.recompute_weights, float),
        "tuning_seeds": options.tuning_seeds,
    }
    return replace(size, **{name: value for name, value in changes.items() if value is not None})


def _list(option: str, text: str | None, kind: Callable[[str], T]) -> tuple[T, ...] | None:
    if text is None:
        return None
    try:
        return tuple(kind(each.strip()) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is no list of numbers with commas ({error})") from error


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster_routing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--full", action="store_true", help="all cells: hours; --jobs helps")
    add("--presets", help="workloads, with commas")
    add("--workers", help="numbers of workers, with commas")
    add("--loads", help="shares of the saturation rate, with commas")
    add("--seeds", type=count, help="traces per cell")
    add("--requests-per-worker", type=count)
    add("--min-matches", help="prefix_affinity's least matches to sweep, with commas")
    add("--imbalances", help="prefix_affinity's imbalances to sweep, with commas")
    add("--recompute-weights", help="of ours, for the sensitivity table, with commas")
    add("--tuning-seeds", type=count, help="seeds on which thresholds and weights are swept")
    add("--profile", default="llama-3-8b-h100", help="of the emulated engine: a name, or a JSON file")
    add("--output-scale", type=positive, default=0.1, help="factor on the length of answers (0.1)")
    add(
        "--device-share",
        type=positive,
        default=1 / 3,
        help="a worker's KV as a share of the working set (1/3)",
    )
    add("--jobs", type=count, default=1, help="processes")
    add("--out", type=Path, help="folder of the study (results/cluster_routing/<commit>/smoke or full)")
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = Path("results/cluster_routing") / revision() / ("full" if options.full else "smoke")
    return options


if __name__ == "__main__":
    sys.exit(main())
