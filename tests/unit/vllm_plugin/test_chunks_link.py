"""What is kept of a step comes back as it was, and takes the memory that is counted for it."""

from __future__ import annotations

import pytest
import torch

from mygo.vllm_plugin.chunks import link
from mygo.vllm_plugin.chunks.link import HostLink, held_bytes


def test_tokens_kept_in_parts_come_back_whole() -> None:
    kv = torch.randn(3, 2, 10, 8)
    between = HostLink(torch.device("cpu"))
    chunk = between.new((3, 2, 10, 8), kv.dtype)
    for start, end in ((0, 4), (4, 9), (9, 10)):
        for layer in range(3):
            for part in range(2):
                between.keep(kv[layer, part, start:end], chunk[layer, part, start:end])
    between.kept()
    between.kept_so_far()()
    kept = kv.clone()
    kv.zero_()  # the device's memory is used again
    arrival = between.load(chunk, 10)
    assert torch.equal(torch.stack([arrival.layer(number) for number in range(3)]), kept)


def test_loads_are_counted_once_and_by_the_part_that_is_used() -> None:
    between = HostLink(torch.device("cpu"))
    chunk = torch.zeros(3, 2, 10, 8)
    between.load(chunk, 10)
    between.load(chunk, 2)
    for _ in range(3):
        with between.holding_up():
            pass
    assert between.take() == (0, 0.0), "the step is under way"
    between.loaded()
    loaded_bytes, load_s = between.take()
    assert loaded_bytes == chunk.nbytes + chunk.nbytes // 5
    assert load_s > 0
    assert between.take() == (0, 0.0)


@pytest.mark.parametrize(
    ("kv_bytes", "pinned_bytes"), [(1, 1), (4096, 4096), (4097, 8192), (50 * 2**20, 2**26)]
)
def test_pinned_memory_is_counted_as_it_is_taken(
    kv_bytes: int, pinned_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert held_bytes(kv_bytes) == kv_bytes
    monkeypatch.setattr(link, "is_pin_memory_available", lambda: True)
    assert held_bytes(kv_bytes) == pinned_bytes
