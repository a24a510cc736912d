"""What the kernels of attention backends do, in torch."""

from __future__ import annotations

from typing import Any

import torch


def write_cache(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
    *_: Any,
) -> None:
    """[tokens, heads, size] into [blocks, block tokens, heads, size], at slots that are not -1."""
    block_tokens = key_cache.shape[1]
    used = slots >= 0
    at = slots[used] // block_tokens, slots[used] % block_tokens
    key_cache[at] = keys[: len(slots)][used]
    value_cache[at] = values[: len(slots)][used]


def attend(
    *,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool,
    **_: Any,
) -> torch.Tensor:
    """A row's last query sees its first ``seqused_k`` keys; each one before it sees one less."""
    assert causal and len(block_table) == len(seqused_k) == len(cu_seqlens_q) - 1
    shared = q.shape[1] // k.shape[2]
    bounds = cu_seqlens_q.tolist()
    for start, end, keys, blocks in zip(bounds, bounds[1:], seqused_k.tolist(), block_table, strict=False):
        assert end - start <= max_seqlen_q and keys <= max_seqlen_k
        held = k[blocks.long()].flatten(0, 1)[:keys], v[blocks.long()].flatten(0, 1)[:keys]
        key, value = (each.repeat_interleave(shared, dim=1).transpose(0, 1) for each in held)
        seen = torch.ones(end - start, keys, dtype=torch.bool).tril(keys - (end - start))
        out[start:end] = torch.nn.functional.scaled_dot_product_attention(
            q[start:end].transpose(0, 1), key, value, attn_mask=seen, scale=softmax_scale
        ).transpose(0, 1)
    return out
