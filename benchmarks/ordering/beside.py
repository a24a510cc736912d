"""A warm request beside a long cold one, in a real engine.

A warm request has a document that the device holds, and a question that it does not.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.shipped_engine import shipped_engine, ttft_s
from mygo.vllm_plugin.settings import TierSettings

LONG_TOKENS = 4_000
DOCUMENT_TOKENS = 2_000
QUESTION_TOKENS = 64
WORDS = range(1_000, 40_000)
WARM_PER_LONG = 2


@dataclass
class Beside:
    """Seconds to the first token."""

    idle_s: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    """Of warm requests that came while a long one was computed."""
    long_s: list[float] = field(default_factory=list)
    """Of the long ones."""


def measure(model: Path, tiers: TierSettings, rounds: int, seed: int = 0) -> Beside:
    """Start an engine as MyGO ships for a CPU, and ask."""
    return asyncio.run(_measure(model, tiers, rounds, random.Random(seed)))


async def _measure(model: Path, tiers: TierSettings, rounds: int, rng: random.Random) -> Beside:
    async with shipped_engine(model, tiers=tiers) as llm:
        return await _ask(llm, rounds, rng)


async def _ask(llm: Any, rounds: int, rng: random.Random) -> Beside:
    found = Beside()
    document = _words(rng, DOCUMENT_TOKENS)
    cold_s = await ttft_s(llm, "document", document)
    for number in range(rounds):
        question = _words(rng, QUESTION_TOKENS)
        found.idle_s.append(await ttft_s(llm, f"idle{number}", document + question))
    for number in range(rounds):
        long = asyncio.create_task(ttft_s(llm, f"long{number}", _words(rng, LONG_TOKENS)))
        for turn in range(WARM_PER_LONG):
            # anywhere in a step, while the long one takes at least twice as long as the document did
            await asyncio.sleep(cold_s * rng.uniform(0.1, 0.6))
            if not long.done():
                warm = document + _words(rng, QUESTION_TOKENS)
                found.beside_s.append(await ttft_s(llm, f"warm{number}-{turn}", warm))
        found.long_s.append(await long)
    return found


def _words(rng: random.Random, tokens: int) -> list[int]:
    return rng.choices(WORDS, k=tokens)
