"""What prefill costs when documents come from chunks, beside computing them, and what keeping them costs.

    python -m benchmarks.chunk_prefill [--rounds N] [--documents N] [--tokens N] [--repair-share S] ...

Each round takes documents that the engine has never seen, and keeps each behind neutral ones. Then it serves
one prompt of all of them in turn: from chunks (the device knows nothing), computed while chunks are taken of
it, computed alone, and from the device. So each figure stands beside others that were measured seconds
before. CPU seconds are those of the whole engine process. Prints medians with their bounds, writes all
samples; exit status 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks import folders
from benchmarks.accept import revision
from benchmarks.arguments import count, positive, whole_number
from benchmarks.harness.machine import cpu_name
from benchmarks.texts import Docstrings
from mygo import models
from mygo.config import Config
from mygo.errors import MygoError
from mygo.vllm_plugin.settings import ChunkSettings, engine_arguments

CPU_SHARE = 0.22
TTFT_SHARE = 0.30
CAPTURE_SHARE = 1.05
"""Computing a prompt while chunks are taken of it, over computing it alone."""
NEUTRAL_TOKENS = 64
"""Of each of the two documents that others are kept behind."""
QUESTION = "\n\nWhich of these functions returns an iterator, and over what?\nAnswer:"
SYSTEM = "Use the following documents to answer the question at the end. Name what you have used.\n\n"


@dataclass(frozen=True, slots=True)
class Sample:
    kind: str
    """chunks, capture, cold or device."""
    round: int
    cpu_s: float
    ttft_s: float
    prompt_tokens: int
    computed_tokens: int
    token: int
    logprob: float
    """Of the first token of the answer."""


class Bench:
    def __init__(self, model: Path, repair_share: float, seed: int) -> None:
        # read when vLLM is first imported
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", str(sorted(os.sched_getaffinity(0))[-1]))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM, SamplingParams

        self._params: Any = SamplingParams
        self._llm = LLM(
            str(model),
            dtype="bfloat16",
            enforce_eager=True,
            block_size=32,
            max_model_len=4096,
            kv_cache_memory_bytes=2**28,
            max_num_batched_tokens=4096,
            disable_log_stats=True,
            seed=seed,
            **engine_arguments(chunks=ChunkSettings(host_bytes=2**30, repair_share=repair_share)),
        )
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._texts = Docstrings(model)
        self._rng = random.Random(seed)
        self.neutral = [self.document(NEUTRAL_TOKENS) for _ in range(2)]

    def document(self, tokens: int) -> list[int]:
        return self._ids(self._texts.passage(self._rng, tokens)) + self._ids("\n\n")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def keep(self, documents: list[list[int]]) -> None:
        """Compute each behind the neutral documents, and keep it as a chunk."""
        for document in documents:
            self.serve("keep", -1, [*self.neutral, document], filler=True)

    def serve(self, kind: str, number: int, documents: list[list[int]], **asked: Any) -> Sample:
        parts = [self._ids(SYSTEM), *documents, self._ids(QUESTION)]
        ids = [token for part in parts for token in part]
        sampling = self._params(
            max_tokens=1,
            temperature=0.0,
            logprobs=0,
            extra_args={"kv_transfer_params": {"mygo": {"spans": _spans(parts), **asked}}},
        )
        cpu_s, started = time.process_time(), time.perf_counter()
        (output,) = self._llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
        ttft_s = time.perf_counter() - started
        cpu_s = time.process_time() - cpu_s
        (token,) = output.outputs[0].token_ids
        computed_tokens = len(ids) - (output.num_cached_tokens or 0)
        logprob = output.outputs[0].logprobs[0][token].logprob
        return Sample(kind, number, cpu_s, ttft_s, len(ids), computed_tokens, token, logprob)

    def forget_device(self) -> None:
        assert self._llm.reset_prefix_cache()

    def round(self, number: int, documents: list[list[int]]) -> list[Sample]:
        self.keep(documents)
        self.forget_device()
        samples = [self.serve("chunks", number, documents, reuse="blend")]
        self.forget_device()
        samples.append(self.serve("capture", number, documents))
        self.forget_device()
        samples.append(self.serve("cold", number, documents))
        return [*samples, self.serve("device", number, documents)]


def _spans(parts: list[list[int]]) -> list[list[Any]]:
    """A segment map in which all but the first and the last part are documents."""
    spans: list[list[Any]] = []
    path, end_tokens = "", 0
    for place, part in enumerate(parts):
        name = _digest(str(part))
        path, end_tokens = _digest(path + name), end_tokens + len(part)
        spans.append([path, end_tokens, "public", name if 0 < place < len(parts) - 1 else ""])
    return spans


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


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
    bench = Bench(model, options.repair_share, options.seed)
    samples: list[Sample] = []
    for number in range(-1, options.rounds):  # the first warms up
        samples += bench.round(number, [bench.document(options.tokens) for _ in range(options.documents)])
    path = out / "samples.json"
    path.write_text(json.dumps([asdict(sample) for sample in samples], indent=1) + "\n")
    console.print(
        f"{cpu_name()}, {revision()}, {options.documents} documents of about {options.tokens} tokens, "
        f"repair share {options.repair_share}"
    )
    holds = show(console, [sample for sample in samples if sample.round >= 0])
    console.print(f"samples: {path}")
    return 0 if holds else 1


def show(console: Console, samples: list[Sample]) -> bool:
    """Prints the table and the bounds; True if all of them hold."""
    kinds = {
        kind: [sample for sample in samples if sample.kind == kind]
        for kind in ("cold", "capture", "chunks", "device")
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
    )
    for name, measured, bound in bounds:
        verdict = "holds" if measured <= bound else "[red]broken[/]"
        console.print(f"{name}: {measured:.3f}, at most {bound}: {verdict}")
    return all(measured <= bound for _, measured, bound in bounds)


if __name__ == "__main__":
    sys.exit(main())
