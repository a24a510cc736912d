"""Mooncake's traces (FAST'25): requests as chains of hashed blocks, with lengths and times.

They record no documents. A block's hash covers all that stands before it, so equal hashes are equal
prefixes: each full block becomes a text of 512 tokens, in order, under ``documents``; no reordering can
help, because a block never occurs behind another predecessor. The last block holds what the user wrote
last and becomes the question. The system prompt is part of the first blocks, so the trace's is empty.

Source: https://github.com/kvcache-ai/Mooncake, FAST25-release/traces.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from mygo.workloads.lines import lines_of, malformed, parsed
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest

BLOCK_TOKENS = 512
NO_SYSTEM = TextId("no-system")

EXAMPLE = '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, ...]}'


class _Line(BaseModel):
    timestamp: float = Field(ge=0, allow_inf_nan=False)
    """Milliseconds since the start."""
    input_length: int = Field(ge=1)
    output_length: int = Field(ge=0)
    hash_ids: list[int] = Field(min_length=1)


def load_mooncake(path: Path) -> Trace:
    """Read a Mooncake trace. Raises BadTrace that names the line."""
    texts = {NO_SYSTEM: Text(0)}
    requests: list[TraceRequest] = []
    for number, line in lines_of(path):
        entry = parsed(_Line, line, path, number, example=EXAMPLE)
        arrival_s = entry.timestamp / 1_000
        blocks = -(-entry.input_length // BLOCK_TOKENS)
        if len(entry.hash_ids) != blocks:
            raise malformed(
                path,
                number,
                f"hash_ids: {len(entry.hash_ids)} blocks for an input_length of {entry.input_length}, which "
                f"is {blocks} blocks of {BLOCK_TOKENS} tokens",
                example=EXAMPLE,
            )
        if requests and arrival_s < requests[-1].arrival_s:
            raise malformed(
                path, number, f"timestamp: {entry.timestamp:g} is before the line above", example=EXAMPLE
            )
        names = tuple(TextId(f"block{block}") for block in entry.hash_ids[:-1])
        texts.update((name, Text(BLOCK_TOKENS)) for name in names)
        requests.append(
            TraceRequest(
                number=len(requests),
                arrival_s=arrival_s,
                system=NO_SYSTEM,
                documents=names,
                question_tokens=entry.input_length - BLOCK_TOKENS * len(names),
                output_tokens=max(1, entry.output_length),
            )
        )
    return Trace(path.stem, texts, tuple(requests), parameters={"source": f"Mooncake, {path.name}"})
