"""Exact search on a GPU, which compares all of millions of vectors in about a millisecond."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from mygo.retrieval.index import IndexKind, Partial, Rows, Scores, Structure, Vectors, best

logger = logging.getLogger(__name__)

_SPARE = 16
"""Candidates beyond those asked for: the GPU may round a product otherwise than the score that is told."""
_GROWTH = 1.5


class GpuIndex:
    """All vectors in the memory of a GPU, [capacity, dimensions] float32; a removal fills its place with the
    last one. Where there is no GPU it is the same on the CPU, and slow.

    PyTorch and not FAISS's GPU indexes, which can neither remove nor name their vectors.
    """

    kind = IndexKind.GPU

    def __init__(self, dimensions: int, *, outgrown_below: int) -> None:
        """``outgrown_below``: vectors below which the CPU is fast enough."""
        import torch  # deferred: it takes seconds to import

        self._torch: Any = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cpu":
            logger.warning("retrieval.index: gpu, and this shard sees none: it searches on the CPU, exactly")
        self._outgrown_below = outgrown_below
        self._held: Any = torch.empty((0, dimensions), device=self._device)
        self._rows = np.empty(0, np.int64)
        """[vectors]: whose vector lies in a place."""
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"GpuIndex(vectors={len(self)}, device={self._device})"

    def add(self, rows: Rows, vectors: Vectors) -> None:
        start, end = len(self), len(self) + len(rows)
        if end > len(self._held):
            grown = self._held.new_empty((max(end, int(_GROWTH * start)), self._held.shape[1]))
            grown[:start] = self._held[:start]
            self._held = grown
        self._held[start:end] = self._torch.from_numpy(np.ascontiguousarray(vectors))
        self._rows = np.concatenate([self._rows, rows])
        self._places.update(zip(rows.tolist(), range(start, end), strict=True))

    def remove(self, rows: Rows) -> None:
        gone = {self._places.pop(row) for row in rows.tolist()}
        end = len(self) - len(gone)
        holes = sorted(place for place in gone if place < end)
        last = [place for place in range(end, len(self)) if place not in gone]
        self._held[holes] = self._held[last]
        self._rows[holes] = self._rows[last]
        self._rows = self._rows[:end].copy()
        self._places.update(zip(self._rows[holes].tolist(), holes, strict=True))

    def vectors(self, rows: Rows) -> Vectors:
        places = [self._places[row] for row in rows.tolist()]
        held: Vectors = self._held[places].cpu().numpy()
        return held

    def search(self, vector: Vectors, k: int) -> tuple[Scores, Rows]:
        most = min(k + _SPARE, len(self))
        query = self._torch.from_numpy(np.ascontiguousarray(vector, np.float32)).to(self._device)
        near = self._torch.mv(self._held[: len(self)], query).topk(most).indices
        scores = np.einsum("ij,j->i", self._held[near].cpu().numpy(), vector)
        return best(scores, self._rows[near.cpu().numpy()], k)

    def search_staged(self, vector: Vectors, k: int, stage_s: float) -> Iterator[Partial]:
        yield Partial(*self.search(vector, k), is_last=True)

    @property
    def outgrown(self) -> bool:
        return 2 * len(self) < self._outgrown_below

    def structure(self) -> Structure | None:
        return None
