"""What a hit costs in each tier of a real engine, beside computing the prompt.

    python -m benchmarks.tier_latency [--prompts N] [--tokens N] [--throttle GPU] [--out DIR]

Every prompt is served four times in turn by one engine: computed, from the device, from host memory (the
device forgets in between), and by a second engine on the same folder from disk. So each figure stands beside
others that were measured seconds before. With ``--throttle`` copies take as long, in comparison with
computing, as on the named GPU, and a third engine has a disk so slow that computing is sooner. Prints the
medians with their bounds, writes all samples; exit status 1 if a bound is broken, an answer differs from
that of the device's KV, or the gate chose wrongly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.arguments import count, whole_number
from benchmarks.harness.machine import cpu_name, kv_bytes_per_token
from benchmarks.systems.throttle import GPUS, ratios
from benchmarks.tier_latency.child import BLOCK_TOKENS, Job, Sample, Speeds
from mygo import models
from mygo.config import Config
from mygo.errors import MygoError

DEVICE_SHARE_OF_COLD = 0.08
HOST_FACTOR = 1.25
DISK_FACTOR = 1.5
TOO_SLOW = 1.5
"""Seconds to load a token from the third engine's disk, over seconds to compute it."""
LOGPROB_NOISE = 0.05
"""Between a cold run and a prefix hit in bfloat16; the same KV must give the same."""


@dataclass
class Measured:
    """All that the engines of one setting said."""

    samples: list[Sample] = field(default_factory=list)
    speeds: list[Speeds] = field(default_factory=list)

    def ttfts(self, kind: str) -> list[float]:
        return [sample.ttft_s for sample in self.samples if sample.kind == kind]

    def median_s(self, kind: str) -> float:
        return statistics.median(self.ttfts(kind))


@dataclass(frozen=True)
class Check:
    name: str
    measured: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound


def run_child(job: Job) -> Measured:
    """Raises MygoError with the end of its output if the process fails."""
    with tempfile.TemporaryDirectory(prefix="mygo-tier-latency-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(asdict(job)))
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.tier_latency.child", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode:
        raise MygoError("the engine failed:\n" + "\n".join(ended.stderr.splitlines()[-15:]))
    found = Measured()
    for line in ended.stdout.splitlines():
        if line.startswith('{"kind"'):
            sample = Sample(**json.loads(line))
            if sample.kind != "warm-up":
                found.samples.append(sample)
        elif line.startswith('{"host_tokens_per_s"'):
            found.speeds.append(Speeds(**json.loads(line)))
    return found


def measure(job: Job) -> Measured:
    """An engine that computes, then one that starts on the folder which the first has left."""
    first = run_child(job)
    second = run_child(Job(**{**asdict(job), "from_disk": True}))
    return Measured(first.samples + second.samples, first.speeds + second.speeds)


def checks(found: Measured, prompt_tokens: int, *, throttled: bool) -> list[Check]:
    cold_s, device_s = found.median_s("cold"), found.median_s("device")
    loaded_tokens = (prompt_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    host_s = loaded_tokens / statistics.mean(speed.host_tokens_per_s for speed in found.speeds)
    disk_s = loaded_tokens / found.speeds[-1].disk_tokens_per_s
    result = [Check("device hit / cold prefill", device_s / cold_s, DEVICE_SHARE_OF_COLD)]
    result.append(Check("host hit, s", found.median_s("host"), device_s + HOST_FACTOR * host_s))
    # what lies on disk passes through host memory: a slowed host link is part of the way
    beyond_s = HOST_FACTOR * host_s if throttled else 0.0
    result.append(Check("disk hit, s", found.median_s("disk"), device_s + DISK_FACTOR * disk_s + beyond_s))
    truth = {sample.prompt: sample for sample in found.samples if sample.kind == "device"}
    apart = [
        abs(sample.logprob - truth[sample.prompt].logprob)
        if sample.token == truth[sample.prompt].token
        else float("inf")
        for sample in found.samples
        if sample.kind in ("host", "disk")
    ]
    result.append(Check("logprob of the first token, from the device's", max(apart), LOGPROB_NOISE))
    return result


def show(console: Console, title: str, found: Measured, verdicts: list[Check]) -> None:
    table = Table(title=title)
    for column in ("where the KV lay", "TTFT median, s", "spread, s", "cached tokens", "of cold"):
        table.add_column(column, justify="left" if column.startswith("where") else "right")
    for kind in ("cold", "device", "host", "disk"):
        values = found.ttfts(kind)
        if values:
            cached = statistics.median(
                sample.cached_tokens for sample in found.samples if sample.kind == kind
            )
            share = found.median_s(kind) / found.median_s("cold")
            spread = f"{min(values):.3f} to {max(values):.3f}"
            table.add_row(kind, f"{found.median_s(kind):.3f}", spread, f"{cached:.0f}", f"{share:.3f}")
    console.print(table)
    for speed in found.speeds:
        console.print(
            f"measured by the engine: {speed.host_tokens_per_s:,.0f} tokens/s from host memory, "
            f"{speed.disk_tokens_per_s:,.0f} from disk"
        )
    for check in verdicts:
        word = "[green]holds[/]" if check.holds else "[red]broken[/]"
        console.print(f"{check.name}: {check.measured:.4f}, bound {check.bound:.4f}: {word}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tier_latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=count, default=7, help="per engine (default 7)")
    parser.add_argument("--tokens", type=count, default=2000, help="of each prompt (default 2000)")
    parser.add_argument("--seed", type=whole_number, default=1)
    parser.add_argument("--throttle", metavar="GPU", help=f"one of {', '.join(GPUS)}")
    parser.add_argument("--out", type=Path, default=Path("results/tier_latency"), help="where samples go")
    options = parser.parse_args()
    console = Console()
    try:
        return run(options, console)
    except MygoError as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        return 2


def run(options: argparse.Namespace, console: Console) -> int:
    gpu = ratios(options.throttle) if options.throttle else None
    out = folders.made(options.out)
    model = models.resolve(Config().model.source, Config().cluster.cache_dir)
    token_bytes = kv_bytes_per_token(model, "bfloat16")
    kv_bytes = options.tokens * token_bytes
    with tempfile.TemporaryDirectory(prefix="mygo-kv-", dir=out) as disk:
        job = Job(
            model=str(model),
            tiers={
                "host_bytes": 3 * kv_bytes,
                "disk_path": disk,
                "disk_bytes": 4 * options.prompts * kv_bytes,
            },
            prompts=options.prompts,
            prompt_tokens=options.tokens,
            # room for one prompt and its answer, so that nothing stays by chance
            device_blocks=-(-options.tokens // BLOCK_TOKENS) + 2,
            block_bytes=BLOCK_TOKENS * token_bytes,
            seed=options.seed,
            from_disk=False,
        )
        console.print(f"{cpu_name()}, {revision()}, {options.tokens} tokens a prompt")
        found = measure(job)
    title, verdicts = "as the machine is", checks(found, options.tokens, throttled=False)
    show(console, title, found, verdicts)
    written = {title: found}
    if gpu is not None:
        s_per_byte = found.median_s("cold") / options.tokens / token_bytes
        settings = ((f"throttled to {gpu.gpu}", gpu.disk), ("a disk slower than computing", TOO_SLOW))
        for title, disk_ratio in settings:
            with tempfile.TemporaryDirectory(prefix="mygo-kv-", dir=out) as disk:
                tiers = {
                    **job.tiers,
                    "disk_path": disk,
                    "host_load_s_per_byte": gpu.host * s_per_byte,
                    "disk_read_s_per_byte": disk_ratio * s_per_byte,
                }
                slow = measure(Job(**{**asdict(job), "tiers": tiers}))
            cached = [sample.cached_tokens for sample in slow.samples if sample.kind == "disk"]
            if disk_ratio < 1:
                more = checks(slow, options.tokens, throttled=True)
                more.append(Check("disk hits that the gate refused", cached.count(0), 0))
            else:
                more = [Check("disk hits that the gate allowed", len(cached) - cached.count(0), 0)]
            show(console, title, slow, more)
            verdicts += more
            written[title] = slow
    path = out / "samples.json"
    path.write_text(json.dumps({title: asdict(each) for title, each in written.items()}, indent=1) + "\n")
    console.print(f"samples: {path}")
    return 0 if all(check.holds for check in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
