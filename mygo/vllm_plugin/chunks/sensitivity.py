"""Which tokens of a document depend on what is before it: by how far two of its chunks are apart.

CacheBlend (arXiv 2405.16444) recomputes the tokens whose values in their new place are farthest from the
stored ones, and finds them by computing an early layer of all. Two births of one document show, without
computing anything, which tokens' values change with their context. Only values: they carry no position.
"""

from __future__ import annotations

import torch

from mygo.vllm_plugin.chunks.layers import VALUES


def order(one: torch.Tensor, other: torch.Tensor) -> tuple[int, ...]:
    """All tokens, those that are farthest apart first; ties by their place.

    Chunks of one document, [layers, 2, tokens, width]. Compared are values of an early and of the middle
    layer, each by |one - other| / |one|; those of the first layer are the same in all contexts.
    """
    layers = one.shape[0]
    compared = torch.tensor(sorted({min(1, layers - 1), layers // 2}))
    here, there = (chunk[compared, VALUES].float() for chunk in (one, other))
    apart = torch.linalg.vector_norm(here - there, dim=-1)
    size = torch.linalg.vector_norm(here, dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    ranked = torch.argsort((apart / size).mean(dim=0), descending=True, stable=True)
    return tuple(ranked.tolist())
