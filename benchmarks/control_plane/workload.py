"""The one request that both applications are sent, and what a complete answer to it looks like."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks.cluster import MODEL
from benchmarks.texts import Docstrings

TOKENS = 20
"""Tokens per answer, and SSE chunks of the empty application."""
DOCUMENTS = 8
DOCUMENT_TOKENS = 240
NUMBER = "@@@@@@@@"
"""Stands in the question; each request gets another number of the same length."""


def body(model_path: Path) -> str:
    """A streamed chat completion over inline documents; ``NUMBER`` is still in it."""
    texts = Docstrings(model_path)
    rng = random.Random(0)
    documents = [
        {"id": f"doc-{index}", "text": texts.passage(rng, DOCUMENT_TOKENS)} for index in range(DOCUMENTS)
    ]
    return json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Question {NUMBER}: what do these texts describe?"}],
            "stream": True,
            "max_tokens": TOKENS,
            "temperature": 0,
            "documents": documents,
        }
    )


def check(answer: bytes) -> None:
    """Raise ValueError unless this is a stream with all chunks."""
    if answer.count(b"data: ") < TOKENS or not answer.rstrip().endswith(b"[DONE]"):
        raise ValueError(f"not a whole stream of {TOKENS} chunks: {answer[:500]!r} ... {answer[-200:]!r}")
