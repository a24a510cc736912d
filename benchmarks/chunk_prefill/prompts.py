"""Prompts of documents that no engine has seen, with their segment maps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.texts import Docstrings

NEUTRAL_TOKENS = 64
"""Of each of the two documents that others are kept behind."""
QUESTION = "\n\nWhich of these functions returns an iterator, and over what?\nAnswer:"
SYSTEM = "Use the following documents to answer the question at the end. Name what you have used.\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    token_ids: list[int]
    kv_transfer_params: dict[str, Any]


class Prompts:
    def __init__(self, model: Path, seed: int) -> None:
        """``model`` is the checkpoint's folder; its tokenizer counts."""
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._texts = Docstrings(model)
        self._rng = random.Random(seed)
        self._neutral = [self.document(NEUTRAL_TOKENS) for _ in range(2)]

    def document(self, tokens: int) -> list[int]:
        return self._ids(self._texts.passage(self._rng, tokens)) + self._ids("\n\n")

    def kept(self, document: list[int]) -> Asked:
        """A document behind neutral ones; who computes this keeps it as a chunk."""
        return self.asked([*self._neutral, document], filler=True)

    def asked(self, documents: Sequence[list[int]], **how: Any) -> Asked:
        """All of them, and then a question; ``how`` goes to MyGO's connector."""
        parts = [self._ids(SYSTEM), *documents, self._ids(QUESTION)]
        ids = [token for part in parts for token in part]
        return Asked(ids, {"mygo": {"spans": spans_of(parts), **how}})

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def spans_of(parts: Sequence[list[int]]) -> list[list[Any]]:
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
