"""Records for tests of the benchmark's report."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.records import Record, RoundRecord


def record(system: str, request: int, ttft_s: float, **changes: Any) -> Record:
    """A request of round ``request // 2`` whose last token comes a second after the first."""
    facts: dict[str, Any] = {
        "system": system,
        "load": "closed-1",
        "round": request // 2,
        "request": request,
        "arrived_s": 0.0,
        "sent_s": 0.1,
        "first_s": ttft_s,
        "last_s": ttft_s + 1.0,
        "ttft_s": ttft_s,
        "e2e_s": ttft_s + 1.0,
        "itl_s": [0.25] * 4,
        "prompt_tokens": 100,
        "cached_tokens": 0,
        "embed_s": 0.08,
        "search_s": 0.02,
        "queue_s": 0.0,
        "prefill_s": ttft_s - 0.2,
        "worker": "",
        "output_ids": [1, 2, 3],
    }
    return Record(**facts | changes)


def round_record(system: str, number: int, **changes: Any) -> RoundRecord:
    facts: dict[str, Any] = {
        "system": system,
        "load": "closed-1",
        "round": number,
        "rate": None,
        "place": 0,
        "wall_s": 4.0,
    }
    return RoundRecord(**facts | changes)
