"""Load tests of an emulated cluster that is started for them, and vLLM's own load generator against it.

    python -m benchmarks.load.emulated [--workers 4] [--only NAME] [--out DIR]

Workers compute nothing: each takes the time that Llama-3-8B would on an H100, ten times more slowly. What is
tested is everything around them. Ends with status 1 if one of the tests does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.arguments import count
from benchmarks.cluster import KEY, Cluster, running_cluster
from mygo import models
from mygo.config import ClusterConfig
from mygo.errors import ConfigError

_CONFIG = Path(__file__).parents[2] / "configs" / "emulated.yaml"

STEPS: Mapping[str, Sequence[str]] = {
    "steady": ("--profile", "steady", "--rate", "1.5", "--duration-s", "15"),
    "worker-kills": ("--profile", "soak", "--rate", "1", "--duration-s", "40", "--kill", "worker",
                     "--kill-every-s", "12"),
    "directory-kills": ("--profile", "steady", "--rate", "1", "--duration-s", "15", "--kill", "directory",
                        "--kill-every-s", "5"),
    "ramp": ("--profile", "ramp", "--rate", "0.7", "--duration-s", "12"),
}  # fmt: skip
"""Options of ``benchmarks.load``; small enough for two cores, whose workers get slow when they are short."""
VLLM_BENCH = "vllm-bench"
VLLM_PROMPTS = 20
OUTPUT_TOKENS = 16


def load(cluster: Cluster, name: str, out: Path) -> Sequence[str]:
    """The command of a step."""
    return [
        *("-m", "benchmarks.load", cluster.url, *STEPS[name], "--output-tokens", str(OUTPUT_TOKENS)),
        *("--cluster-pid", str(cluster.process.pid), "--api-key", KEY, "--out", str(out / name)),
    ]


def vllm_bench(cluster: Cluster, tokenizer: Path, out: Path) -> Sequence[str]:
    """The command of ``vllm bench serve``."""
    return [
        *("-m", "benchmarks.load.vllm_bench", "--backend", "openai-chat", "--base-url", cluster.url),
        *("--endpoint", "/v1/chat/completions", "--header", f"Authorization=Bearer {KEY}"),
        *("--model", str(cluster.config["model"]["name"]), "--tokenizer", str(tokenizer)),
        *("--dataset-name", "random", "--random-input-len", "512", "--random-output-len", "16"),
        *("--num-prompts", str(VLLM_PROMPTS), "--request-rate", "4", "--ignore-eos"),
        *("--save-result", "--result-dir", str(out), "--result-filename", f"{VLLM_BENCH}.json"),
    ]


def served_all(result: Path) -> bool:
    """True if ``vllm bench serve`` got an answer to each request; it ends with status 0 in any case."""
    found = json.loads(result.read_text())
    return bool(found["completed"] == found["num_prompts"] == VLLM_PROMPTS and not found["failed"])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load.emulated",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=count, default=4, metavar="N", help="(default: 4)")
    parser.add_argument("--only", action="append", choices=[*STEPS, VLLM_BENCH], help="repeatable")
    parser.add_argument("--out", type=Path, default=Path("results/load/emulated"), metavar="DIR")
    options = parser.parse_args()
    try:
        failed = _run(options.only or [*STEPS, VLLM_BENCH], options.workers, options.out)
    except (ConfigError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"failed: {', '.join(failed)}" if failed else "all passed", f"(results in {options.out})")
    return 1 if failed else 0


def _run(names: Sequence[str], workers: int, out: Path) -> list[str]:
    """The names of the steps that failed. Raises ConfigError for a folder in use, RuntimeError if the cluster
    does not start."""
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: holds other files; give an empty or a new folder")
    settings: dict[str, Any] = yaml.safe_load(_CONFIG.read_text())
    tokenizer = models.resolve(settings["model"]["source"], ClusterConfig().cache_dir, progress=True)
    sections = {"model": settings["model"], "workers": settings["workers"] | {"replicas": workers}}
    failed: list[str] = []
    with running_cluster(out / "cluster", **sections) as cluster:
        for name in names:
            command = vllm_bench(cluster, tokenizer, out) if name == VLLM_BENCH else load(cluster, name, out)
            print(f"\n{name}: python {' '.join(command)}\n", flush=True)
            wrong = subprocess.run([sys.executable, *command], check=False).returncode
            if wrong or (name == VLLM_BENCH and not served_all(out / f"{VLLM_BENCH}.json")):
                failed.append(name)
            cluster.wait_ready()
    return failed


if __name__ == "__main__":
    sys.exit(main())
