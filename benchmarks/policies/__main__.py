"""Replacement policies compared on traces, through the production tree and shelf.

    python -m benchmarks.policies [--presets ragpulse,cachecraft] [--trace PATH] [--sizes 0.02,0.1] ...

Replays each trace a request at a time against one tier and counts the prefill seconds that the cache
saved, for each policy, each cache size, and an oracle that knows the future. Prints the report; writes
``report.md``, ``report.json`` and ``policies.png``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.accept import revision
from benchmarks.arguments import count
from benchmarks.policies.plots import draw
from benchmarks.policies.report import BASELINE, as_dict, markdown
from benchmarks.policies.study import Setting, Workload, run_all
from mygo.emulation import profile as profiles
from mygo.errors import ConfigError, MygoError
from mygo.tree.policies import DEFAULT_POLICY, POLICIES, find

PRESETS = ("ragpulse", "ragcache-mmlu", "ragcache-nq", "cachecraft")
SIZES = (0.02, 0.05, 0.1, 0.2)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(stderr=True)
    try:
        setting = Setting(
            options.profile,
            _policies(options.policies),
            _sizes(options.sizes),
            options.seeds,
            options.requests,
            options.single,
        )
        profiles.load(setting.profile)
        runs = run_all(
            _workloads(options),
            setting,
            options.jobs,
            lambda text: console.print(text, markup=False, highlight=False),
        )
        options.out.mkdir(parents=True, exist_ok=True)
    except MygoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --out {options.out}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    command = " ".join(["python -m benchmarks.policies", *(arguments or sys.argv[1:])])
    origin = f"Commit {revision()}, `{command}`"
    text = markdown(runs, setting, origin, DEFAULT_POLICY)
    (options.out / "report.md").write_text(text)
    (options.out / "report.json").write_text(json.dumps(as_dict(runs, setting, origin), indent=1) + "\n")
    draw(runs, options.out / "policies.png", DEFAULT_POLICY)
    Console(width=180 if not sys.stdout.isatty() else None).print(Markdown(text))
    console.print(f"written to {options.out}", markup=False)
    return 0


def _workloads(options: argparse.Namespace) -> list[Workload]:
    if options.trace and options.presets is None:
        return [Workload(None, path) for path in options.trace]
    named = PRESETS if options.presets is None else _names(options.presets)
    return [*(Workload(name) for name in named), *(Workload(None, path) for path in options.trace)]


def _policies(text: str | None) -> tuple[str, ...]:
    """LRU is always among them: gaps are measured from it. Raises ConfigError."""
    chosen = tuple(POLICIES) if text is None else _names(text)
    for name in chosen:
        find(name)
    return tuple(dict.fromkeys((BASELINE, *chosen)))


def _sizes(text: str) -> tuple[float, ...]:
    try:
        sizes = tuple(float(each) for each in _names(text))
    except ValueError as error:
        raise ConfigError(f"--sizes: {text!r} is no list of numbers with commas ({error})") from error
    for size in sizes:
        if not 0 < size <= 1:
            raise ConfigError(f"--sizes: {size:g} is no share of the working set; give 0.02 for 2 %")
    if not sizes:
        raise ConfigError("--sizes: give at least one share of the working set, as 0.02,0.1")
    return tuple(sorted(set(sizes)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--presets", help=f"workloads, with commas ({', '.join(PRESETS)}; none beside --trace)")
    add("--trace", type=Path, action="append", default=[], help="a recorded trace; may be repeated")
    add("--sizes", default=",".join(map(str, SIZES)), help="cache sizes as shares of the working set")
    add("--policies", help=f"with commas (all: {', '.join(POLICIES)})")
    add("--seeds", type=count, default=10, help="traces per preset (10)")
    add("--requests", type=count, help="of each trace, from its beginning (all)")
    add("--profile", default="llama-3-8b-h100", help="prices prefill: a name, or a JSON file")
    add("--single", action="store_true", help="documents as independent objects, whole: hits are counted")
    add("--jobs", type=count, default=2, help="processes (2)")
    add("--out", type=Path, help="folder of the report (results/policies/<commit>)")
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = Path("results/policies") / revision()
    return options


if __name__ == "__main__":
    sys.exit(main())
