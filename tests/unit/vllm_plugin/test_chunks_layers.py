"""Tensor parallel ranks keep, turn and write their own heads: together, what one rank with all heads does."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.rotary_embedding import Llama3RotaryEmbedding, RotaryEmbedding

from mygo.errors import ConfigError
from mygo.vllm_plugin.chunks.layers import KEYS, VALUES, Layers

LAYERS, HEADS, HEAD_SIZE, SLOTS = 3, 4, 8, 32


class _Impl:
    """Stands for a backend's writing of KV."""

    sliding_window = None

    def do_kv_cache_update(
        self, layer: Any, keys: torch.Tensor, values: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor
    ) -> None:
        cache[slots, 0], cache[slots, 1] = keys, values


class _Attention(Attention):  # type: ignore[misc]
    """vLLM's, with what chunks use of it."""

    def __init__(self, heads: int, name: str) -> None:
        nn.Module.__init__(self)
        self.layer_name = name
        self.num_kv_heads, self.head_size = heads, HEAD_SIZE
        self.attn_backend = SimpleNamespace(get_name=lambda: "CPU_ATTN")
        self.impl = _Impl()
        self.kv_cache = torch.zeros(SLOTS, 2, heads, HEAD_SIZE)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value


class _Layer(nn.Module):
    def __init__(self, heads: int, rotary: nn.Module, name: str) -> None:
        super().__init__()
        self.rotary_emb = rotary
        self.attn = _Attention(heads, name)

    def forward(self, positions: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        _, turned = self.rotary_emb(positions, torch.zeros_like(keys), keys)
        output: torch.Tensor = self.attn(turned, turned, values)
        return output


class Rank:
    """A model of a rank's heads; the rotary embedding knows no heads, and is every rank's."""

    def __init__(self, heads: slice, rotary: nn.Module) -> None:
        self.heads = heads
        count = heads.stop - heads.start
        self.model = nn.ModuleList(_Layer(count, rotary, f"layer.{n}") for n in range(LAYERS))
        self.layers = Layers(self.model)

    def of(self, kv: torch.Tensor) -> torch.Tensor:
        """Its part of [..., all heads * head size]."""
        split = kv.unflatten(-1, (HEADS, HEAD_SIZE))[..., self.heads, :]
        return split.flatten(-2).contiguous()

    @property
    def cache(self) -> torch.Tensor:
        """[layers, slots, 2, heads, head size]"""
        return torch.stack([layer.attn.kv_cache for layer in self.model])


@pytest.fixture(params=[RotaryEmbedding, Llama3RotaryEmbedding])
def ranks(request: pytest.FixtureRequest) -> Iterator[tuple[Rank, list[Rank]]]:
    """One with all heads, and two that share them unevenly."""
    scaling = (8.0, 1.0, 4.0, 8192) if request.param is Llama3RotaryEmbedding else ()
    with set_current_vllm_config(VllmConfig()):
        rotary = request.param(HEAD_SIZE, HEAD_SIZE, 64, 10000.0, True, torch.float32, *scaling)
        parts = [Rank(slice(0, 1), rotary), Rank(slice(1, HEADS), rotary)]
        yield Rank(slice(0, HEADS), rotary), parts


def test_ranks_write_what_one_rank_would_when_each_turns_its_own_heads(
    ranks: tuple[Rank, list[Rank]],
) -> None:
    whole, parts = ranks
    generator = torch.Generator().manual_seed(1)
    kv = torch.randn(LAYERS, 2, 5, HEADS * HEAD_SIZE, generator=generator)
    positions, slots = torch.tensor([3, 9, 10, 40, 63]), torch.tensor([30, 2, 3, 17, 0])
    for rank in (whole, *parts):
        own = rank.of(kv)
        for number in range(LAYERS):
            rank.layers.write(number, own[number, KEYS].clone(), own[number, VALUES], positions, slots)
    assert torch.equal(torch.cat([part.cache for part in parts], dim=3), whole.cache)
    assert not torch.equal(whole.cache[:, slots, 0].flatten(-2), kv[:, 0]), "keys are turned"
    assert torch.equal(whole.cache[:, slots, 1].flatten(-2), kv[:, 1])


def test_ranks_keep_what_one_rank_would_when_each_takes_its_own_heads(ranks: tuple[Rank, list[Rank]]) -> None:
    whole, parts = ranks
    generator = torch.Generator().manual_seed(2)
    keys, values = torch.randn(2, LAYERS, 6, HEADS * HEAD_SIZE, generator=generator)
    rows = torch.tensor([1, 2, 5])

    def taken(rank: Rank) -> torch.Tensor:
        parts: dict[tuple[int, int], torch.Tensor] = {}
        tap = rank.layers.tap(rows, lambda layer, part, kv: parts.__setitem__((layer, part), kv))
        for number, layer in enumerate(rank.model):
            layer(torch.arange(6), rank.of(keys[number]), rank.of(values[number]))
        tap.close()
        rank.model[0](torch.arange(6), rank.of(keys[0]), rank.of(values[0]))  # takes nothing any more
        assert list(parts) == [(layer, part) for layer in range(LAYERS) for part in (KEYS, VALUES)]
        return torch.stack(list(parts.values())).unflatten(0, (LAYERS, 2))

    together = torch.cat([taken(part).unflatten(-1, (-1, HEAD_SIZE)) for part in parts], dim=-2).flatten(-2)
    assert torch.equal(together, taken(whole))
    assert torch.equal(together[:, 0], keys[:, rows]), "as they were before they were turned"
    assert torch.equal(together[:, 1], values[:, rows])


def test_backends_that_plan_a_row_per_request_are_refused(ranks: tuple[Rank, list[Rank]]) -> None:
    model = ranks[0].model
    for name in ("FLASH_ATTN", "TRITON_ATTN"):
        model[0].attn.attn_backend.get_name = lambda name=name: name
        assert len(Layers(model)) == LAYERS
    model[0].attn.attn_backend.get_name = lambda: "FLASHINFER"
    with pytest.raises(ConfigError, match=r"FLASHINFER.* FLASH_ATTN, TRITON_ATTN: set .*attention_backend"):
        Layers(model)


@pytest.mark.parametrize(("window", "works"), [(None, True), (-1, True), ((-1, -1), True), ((511, 0), False)])
def test_sliding_windows_are_refused_however_a_backend_says_them(
    window: object, works: bool, ranks: tuple[Rank, list[Rank]]
) -> None:
    model = ranks[0].model
    model[1].attn.impl.sliding_window = window
    if works:
        assert len(Layers(model)) == LAYERS
    else:
        with pytest.raises(ConfigError, match="sliding window"):
            Layers(model)
