"""What is loaded layer by layer lies where it would if all of it were put there at once."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_chunks_holdings import VARIANTS

from mygo.vllm_plugin.chunks.layers import KEYS, VALUES
from mygo.vllm_plugin.chunks.layout import Load
from mygo.vllm_plugin.chunks.link import HostLink
from mygo.vllm_plugin.chunks.loading import Loading
from mygo.vllm_plugin.chunks.mover import ChunkMover
from mygo.vllm_plugin.chunks.step import ChunkStep

LAYERS, WIDTH, BLOCK_TOKENS, BLOCKS = 3, 4, 4, 8
COMPUTED = -1.0
"""What the model itself has written to a slot."""


class Layers:
    """A device's cache, in which a key tells the position that it was turned to."""

    def __init__(self) -> None:
        self.cache = torch.zeros(LAYERS, 2, BLOCK_TOKENS * BLOCKS, WIDTH)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return LAYERS

    def number(self, name: str) -> int:
        return int(name)

    def write(
        self,
        number: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        self.asked.append(number)
        self.cache[number, KEYS, slots] = keys.add_(1000.0 * positions[:, None])
        self.cache[number, VALUES, slots] = values


def _chunk(seed: int, tokens: int) -> torch.Tensor:
    return torch.randn(LAYERS, 2, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_runs_and_scattered_tokens_of_several_chunks_are_placed_in_one_go() -> None:
    layers, one, other = Layers(), _chunk(1, 6), _chunk(2, 5)
    before = one.clone(), other.clone()
    link = HostLink(torch.device("cpu"))
    loading = Loading(layers, link, torch.device("cpu"))  # type: ignore[arg-type]
    loading.add(link.load(one, 6), np.arange(2, 6), np.arange(12, 16), np.array([28, 29, 30, 31]))
    loading.add(link.load(other, 5), np.array([0, 2, 4]), np.array([20, 22, 24]), np.array([8, 10, 0]))
    for number in range(LAYERS):
        assert not loading.is_done
        loading.place(number)
    assert loading.is_done and layers.asked == [0, 1, 2]
    assert torch.equal(layers.cache[:, VALUES, [28, 29, 30, 31]], one[:, VALUES, 2:])
    assert torch.equal(layers.cache[:, VALUES, [8, 10, 0]], other[:, VALUES, [0, 2, 4]])
    turned = layers.cache[:, KEYS, [28, 10]] - 1000.0 * torch.tensor([12.0, 22.0])[:, None]
    assert torch.allclose(turned[:, 0], one[:, KEYS, 2], atol=1e-2)
    assert torch.allclose(turned[:, 1], other[:, KEYS, 2], atol=1e-2)
    assert torch.equal(one, before[0]) and torch.equal(other, before[1]), "stored keys stay as they are"
    link.loaded()
    assert link.take()[0] == one.nbytes + other.nbytes


def _mover(layerwise: bool, layers: Layers, positions: np.ndarray[Any, Any]) -> ChunkMover:
    """In a step that computes tokens of one request, at ``positions``, and loads 8 others or fewer."""
    mover = ChunkMover(layerwise=layerwise)
    table = np.array([[5, 2, 7, 1]], dtype=np.int32)
    mover._runner = SimpleNamespace(
        device=torch.device("cpu"),
        cache_config=SimpleNamespace(block_size=BLOCK_TOKENS),
        input_batch=SimpleNamespace(
            req_id_to_index={"r": 0},
            num_computed_tokens_cpu=np.array([12]),
            block_table=[SimpleNamespace(get_numpy_array=lambda: table)],
        ),
    )
    mover._link, mover._layers = HostLink(torch.device("cpu")), layers  # type: ignore[assignment]
    mover._scattered = SimpleNamespace(positions={}, row_starts=np.array([0, 4]))  # type: ignore[assignment]
    mover._chunks[VARIANTS[0].key] = _chunk(3, 8)
    step = ChunkStep(loads={"r": [Load(VARIANTS[0].key, 0, 4, 12, 4)]})
    if len(positions) != 4 or positions[0] != 12:
        step.positions["r"] = positions
    mover.begin(step)
    return mover


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize("positions", [[4, 5, 12, 13], [6, 9, 11, 14], [12, 13, 14, 15]])
def test_what_a_layer_has_computed_is_not_overwritten(layerwise: bool, positions: list[int]) -> None:
    layers = Layers()
    mover = _mover(layerwise, layers, np.array(positions))
    blocks = np.array([5, 2, 7, 1])
    slots = {
        token: int(blocks[token // BLOCK_TOKENS]) * BLOCK_TOKENS + token % BLOCK_TOKENS for token in range(16)
    }
    mover.load()
    assert layers.asked == ([] if layerwise else [0, 1, 2])
    for number in range(LAYERS):
        # as vLLM's layers do: they write what they have computed, then ask, then read
        layers.cache[number, :, [slots[token] for token in positions]] = COMPUTED
        mover.wait_for_layer(str(number))
        read = layers.cache[number, VALUES]
        for token in range(4, 12):
            stored = mover._chunks[VARIANTS[0].key][number, VALUES, token - 4]
            assert torch.equal(
                read[slots[token]], stored if token not in positions else torch.full((4,), COMPUTED)
            )
        assert not read[[slots[token] for token in range(4)]].any()
    mover.finish()
    assert not mover.failed_blocks() and mover.report().loaded_bytes > 0


def test_prompt_is_recomputed_when_a_layer_has_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    mover = _mover(True, Layers(), np.array([4, 5, 12, 13]))
    mover.load()
    mover.wait_for_layer("0")
    with caplog.at_level(logging.ERROR):
        mover.finish()
    assert mover.failed_blocks() == {2} and "recomputed" in caplog.text
    mover.begin(ChunkStep())
    mover.load()
    mover.wait_for_layer("0")
    mover.finish()
    assert not mover.failed_blocks()


def test_missing_chunk_is_a_miss_and_the_others_are_placed() -> None:
    layers = Layers()
    mover = _mover(True, layers, np.array([12, 13, 14, 15]))
    lost = VARIANTS[1].key
    mover._step.loads["r"].insert(0, Load(lost, 0, 0, 4, 0))
    mover.load()
    for number in range(LAYERS):
        mover.wait_for_layer(str(number))
    mover.finish()
    assert mover.failed_blocks() == {5} and mover.report().missing == {lost}
    assert layers.asked == [0, 1, 2]
