"""The attention layers of a model: where keys and values can be taken from, and written to.

Keys are kept as they are before the rotary embedding, so that they can be placed anywhere with the model's
own rotary module: rotating an already rotated key of 16 bits on would lose a third of a percent, and a model
may have another base in each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.rotary_embedding import (
    Llama3RotaryEmbedding,
    RotaryEmbedding,
    YaRNScalingRotaryEmbedding,
)
from vllm.model_executor.layers.rotary_embedding.linear_scaling_rope import LinearScalingRotaryEmbedding

from mygo.errors import ConfigError

ROTARY_CLASSES = (
    RotaryEmbedding,
    LinearScalingRotaryEmbedding,
    Llama3RotaryEmbedding,
    YaRNScalingRotaryEmbedding,
)
"""Those that turn a key by its position alone, whatever the length of the prompt."""

KEYS, VALUES = 0, 1
"""Parts of a chunk, [layers, 2, tokens, width]; keys as they are before the rotary embedding."""
Take = Callable[[int, int, torch.Tensor], None]
"""Layer, part, [rows, width]: a copy, on the device."""

BACKENDS = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")
"""They take more rows of attention than there are requests, and write KV apart from reading it. FLASHINFER
plans in buffers for as many rows as requests."""


class Layers:
    """In the order in which the model computes them. Raises ConfigError for what cannot be repositioned."""

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        self._attention: list[Attention] = []
        self._rotary: list[nn.Module] = []
        for name, module in modules.items():
            if not isinstance(module, Attention):
                continue
            rotary = getattr(modules[name.rpartition(".")[0]], "rotary_emb", None)
            if type(rotary) not in ROTARY_CLASSES:
                raise ConfigError(
                    f"chunks.host_bytes: {name} has {type(rotary).__name__} for a rotary embedding, which "
                    "chunks cannot be moved with: set it to 0 for this model"
                )
            backend = module.attn_backend.get_name()
            if backend not in BACKENDS:
                raise ConfigError(
                    f"chunks.host_bytes: attention is computed by {backend}, and chunk reuse needs one of "
                    f"{', '.join(BACKENDS)}: set the engine's attention_backend, or host_bytes to 0"
                )
            if module.impl.sliding_window not in (None, -1, (-1, -1)):
                raise ConfigError(
                    f"chunks.host_bytes: {name} has a sliding window, which chunk reuse was not tested with: "
                    "set it to 0 for this model"
                )
            self._attention.append(module)
            self._rotary.append(rotary)
        self._numbers = {each.layer_name: number for number, each in enumerate(self._attention)}
        first = self._attention[0]
        self.width = first.num_kv_heads * first.head_size
        """Numbers per token and layer, of keys as of values."""
        self.dtype: torch.dtype = self._rotary[0].dtype

    def __len__(self) -> int:
        return len(self._attention)

    def number(self, name: str) -> int:
        """Of the layer that vLLM calls so."""
        return self._numbers[name]

    def write(
        self,
        number: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        """Place a layer's stored KV at ``positions`` of prompts, in these slots of the device's cache.

        ``keys`` as they were before the rotary embedding, and ``values``: [tokens, width] in the cache's
        type, on the same device as ``positions`` and ``slots`` ([tokens], int64). Keys may be overwritten.
        """
        attention, rotary = self._attention[number], self._rotary[number]
        # The module turns its query in place, and takes any number of heads for one. Not called but
        # forwarded: a tap may be open, and this is no computation of the model's.
        turned, _ = rotary.forward(positions, keys, None)
        shape = len(positions), attention.num_kv_heads, attention.head_size
        attention.impl.do_kv_cache_update(
            attention, turned.view(shape), values.view(shape), attention.kv_cache, slots
        )

    def tap(self, rows: torch.Tensor, take: Take) -> Tap:
        """Give the KV of these rows of the batch ([rows], int64) to ``take`` while the model computes it."""
        return Tap(self._attention, self._rotary, self.width, rows, take)


class Tap:
    """Open until it is closed. The model must compute eagerly in between, once."""

    def __init__(
        self,
        attention: Sequence[Attention],
        rotary: Sequence[nn.Module],
        width: int,
        rows: torch.Tensor,
        take: Take,
    ) -> None:
        self._rows = rows
        self._width = width
        self._take = take
        self._layer = 0
        self._hooks = [module.register_forward_pre_hook(self._before_rotary) for module in set(rotary)]
        self._hooks += [module.register_forward_pre_hook(self._before_attention) for module in attention]

    def _before_rotary(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        # indexing copies: later this very memory holds the turned key
        self._take(self._layer, KEYS, arguments[2].reshape(-1, self._width)[self._rows])

    def _before_attention(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._take(self._layer, VALUES, arguments[2].reshape(-1, self._width)[self._rows])
        self._layer += 1

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
