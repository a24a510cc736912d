"""Measures on a real engine what an ``EngineProfile`` needs beside T(cached, new).

T itself is measured as a worker measures it at its start (``mygo.serve.profiling``).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from mygo.emulation.profile import DecodeCost
from mygo.types import GenerateRequest, ProfileGrid, RequestId, Sampling, TokenDelta

Generate = Callable[[GenerateRequest], AsyncIterator[TokenDelta]]
SHORT_TOKENS = 32
"""Prompt of the sequences whose context should hardly matter."""
_LEAST_STEP_S = 1e-6


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """Seconds per step while ``sequences`` decode that read ``context_tokens`` together."""

    sequences: int
    context_tokens: float
    step_s: float


async def measure_decode(
    generate: Generate,
    *,
    vocabulary: int,
    rng: random.Random,
    context_tokens: int = 1024,
    sequences: int = 8,
    tokens: int = 32,
    clock: Callable[[], float] = time.perf_counter,
) -> DecodeCost:
    """Time one short sequence, one long one, and several short ones. The engine must be idle otherwise.

    ``tokens`` are decoded each time. Leaves random prompts in the engine's cache.
    """

    async def point(count: int, prompt_tokens: int) -> DecodePoint:
        requests = [
            GenerateRequest(
                RequestId(f"decode-{count}-{prompt_tokens}-{index}-{rng.random()}"),
                [rng.randrange(vocabulary) for _ in range(prompt_tokens)],
                (),
                Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True),
            )
            for index in range(count)
        ]
        histories = await asyncio.gather(*(_history(generate, request, clock) for request in requests))
        return DecodePoint(count, count * (prompt_tokens + tokens / 2), _steady_step_s(histories))

    one = await point(1, SHORT_TOKENS)
    long = await point(1, context_tokens)
    many = await point(sequences, SHORT_TOKENS)
    return fit(one, long, many)


def fit(one: DecodePoint, long: DecodePoint, many: DecodePoint) -> DecodeCost:
    """The cost that runs through the three points. Noise that would make a part negative makes it 0."""
    context_token_s = max(0.0, (long.step_s - one.step_s) / (long.context_tokens - one.context_tokens))

    def without_context_s(point: DecodePoint) -> float:
        return point.step_s - point.context_tokens * context_token_s

    growth_s = without_context_s(many) - without_context_s(one)
    sequence_s = max(0.0, growth_s / (many.sequences - one.sequences))
    step_s = without_context_s(one) - one.sequences * sequence_s
    return DecodeCost(max(_LEAST_STEP_S, step_s), sequence_s, context_token_s)


def typical_grid(grids: Sequence[ProfileGrid]) -> ProfileGrid:
    """The median of each point over several measurements of the same points."""
    first = grids[0]
    if any(
        (grid.cached_tokens, grid.new_tokens) != (first.cached_tokens, first.new_tokens) for grid in grids
    ):
        raise ValueError("the grids were measured at different points")
    rows = tuple(
        tuple(
            statistics.median(grid.seconds[row][column] for grid in grids)
            for column in range(len(first.new_tokens))
        )
        for row in range(len(first.cached_tokens))
    )
    return ProfileGrid(first.cached_tokens, first.new_tokens, rows)


def typical_decode(costs: Sequence[DecodeCost]) -> DecodeCost:
    """The median of each part over several measurements."""
    return DecodeCost(
        statistics.median(cost.step_s for cost in costs),
        statistics.median(cost.sequence_s for cost in costs),
        statistics.median(cost.context_token_s for cost in costs),
    )


async def _history(
    generate: Generate, request: GenerateRequest, clock: Callable[[], float]
) -> list[tuple[float, int]]:
    """When tokens came, and how many had come by then."""
    came: list[tuple[float, int]] = []
    total = 0
    async for delta in generate(request):
        total += len(delta.token_ids)
        came.append((clock(), total))
    return came


def _steady_step_s(histories: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Seconds per step while all sequences decode: after the last prefill, before the first end."""
    began_s = max(history[0][0] for history in histories)
    ended_s = min(history[-1][0] for history in histories)
    steady = [[entry for entry in history if began_s <= entry[0] <= ended_s] for history in histories]
    spans = [
        (entries[-1][0] - entries[0][0], entries[-1][1] - entries[0][1])
        for entries in steady
        if len(entries) > 1
    ]
    steps = sum(count for _, count in spans)
    if not steps:
        raise ValueError("the sequences did not decode together: ask for more tokens")
    return sum(seconds for seconds, _ in spans) / steps
