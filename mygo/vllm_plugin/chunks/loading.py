"""What a step loads from chunks, put in its place layer by layer.

A layer's part is placed just before its attention reads KV, while later layers' parts are still on their way:
loading hides behind computing, as in CacheBlend (arXiv 2405.16444) and RAGCache's pipelined loads.
"""

from __future__ import annotations

import numpy as np
import torch
from vllm.utils.torch_utils import async_tensor_h2d

from mygo.vllm_plugin.chunks.layers import KEYS, VALUES, Layers
from mygo.vllm_plugin.chunks.layout import Positions
from mygo.vllm_plugin.chunks.link import Arrival, HostLink


class Loading:
    """Of one step: what is to be loaded is added first, then placed."""

    def __init__(self, layers: Layers, link: HostLink, device: torch.device) -> None:
        self._layers = layers
        self._link = link
        self._device = device
        self._arrivals: list[tuple[Arrival, slice | torch.Tensor]] = []
        """With the chunk's tokens that are placed."""
        self._positions: list[Positions] = []
        self._slots: list[Positions] = []
        self._placed = 0
        self._on_device: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, arrival: Arrival, tokens: Positions, positions: Positions, slots: Positions) -> None:
        """These tokens of a chunk (rising, one at least) go to ``positions`` of a prompt, in slots of the
        cache."""
        first, last = int(tokens[0]), int(tokens[-1])
        is_run = last - first + 1 == len(tokens)
        chosen = slice(first, last + 1) if is_run else async_tensor_h2d(tokens, self._device)
        self._arrivals.append((arrival, chosen))
        self._positions.append(positions)
        self._slots.append(slots)

    @property
    def is_done(self) -> bool:
        """Every layer has what it needs."""
        return not self._arrivals or self._placed == len(self._layers)

    def place(self, layer: int) -> None:
        """The layer is about to read KV; layers ask in their order, each once."""
        if not self._arrivals:
            return
        with self._link.holding_up():
            if self._on_device is None:
                positions, slots = np.concatenate(self._positions), np.concatenate(self._slots)
                self._on_device = (
                    async_tensor_h2d(positions, self._device),
                    async_tensor_h2d(slots, self._device),
                )
            parts = [arrival.layer(layer)[:, tokens] for arrival, tokens in self._arrivals]
            keys = torch.cat([part[KEYS] for part in parts])
            values = torch.cat([part[VALUES] for part in parts])
            self._layers.write(layer, keys, values, *self._on_device)
        self._placed += 1
