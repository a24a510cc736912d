"""Two steps under way both miss a chunk, which is being kept anew when the second is heard."""

from __future__ import annotations

import torch
from test_chunks_holdings import VARIANTS

from mygo.vllm_plugin.chunks.disk import ChunkReport
from mygo.vllm_plugin.chunks.holdings import Holdings
from mygo.vllm_plugin.chunks.mover import ChunkMover
from mygo.vllm_plugin.chunks.step import Capture, ChunkStep
from mygo.vllm_plugin.settings import ChunkSettings


def test_chunk_that_is_being_kept_anew_is_not_dropped_when_another_step_has_missed_the_old_one() -> None:
    holdings = Holdings(ChunkSettings(host_bytes=600), None, 1)
    variant = VARIANTS[0]
    key = variant.key
    mover = ChunkMover()

    class Link:
        def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return torch.full(shape, float("nan"), dtype=dtype)

    class Layers:
        width, dtype = 4, torch.float32

        def __len__(self) -> int:
            return 1

    mover._link, mover._layers = Link(), Layers()  # type: ignore[assignment]

    def work(step: ChunkStep, *captures: Capture) -> None:
        mover._step = step
        for capture in captures:
            mover._place(capture)[:] = 1.0
        mover.finish()

    holdings.put(variant)
    work(holdings.take_step(), Capture(key, 10, 0, 0, 10))
    mover._chunks.clear()  # lost
    holdings.take_step()  # a step that loads it
    holdings.take_step()  # another one, scheduled before the first is heard
    holdings.heard(ChunkReport(missing={key}))
    assert holdings.wants(variant)
    holdings.filling(key)  # who was to load it computes it, and keeps it: 4 tokens in this step
    work(holdings.take_step(), Capture(key, 10, 0, 0, 4))
    holdings.heard(ChunkReport(missing={key}))  # of the second step
    work(holdings.take_step(), Capture(key, 10, 4, 4, 8))
    holdings.put(variant)
    work(holdings.take_step(), Capture(key, 10, 8, 8, 10))
    assert holdings.has([variant])
    assert mover._chunks[key].isfinite().all(), mover._chunks[key][0, 0, :, 0]
