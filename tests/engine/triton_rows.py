"""Triton's own kernels against those of torch, over rows that share blocks. Needs TRITON_INTERPRET=1.

vLLM takes Triton for absent where it finds no driver for a device, and asks for the device's generation: it
is given both in name.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
import triton.backends

triton.backends.backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))
torch.cuda.get_device_capability = lambda *_: (9, 0)

from torch_kernels import attend, write_cache  # noqa: E402
from vllm.v1.attention.ops.triton_reshape_and_cache_flash import (  # noqa: E402
    triton_reshape_and_cache_flash,
)
from vllm.v1.attention.ops.triton_unified_attention import unified_attention  # noqa: E402

HEADS, KV_HEADS, HEAD, BLOCK_TOKENS, BLOCKS = 4, 2, 64, 16, 12
SEGMENTS, MOST_ROWS = 16, 8
FIRST, SECOND = [3, 5, 7, 1], [2, 9, 0, 0]
ONE = torch.ones(())


def caches() -> tuple[torch.Tensor, torch.Tensor]:
    """As backends of GPUs see them: [blocks, block tokens, heads, head size], keys beside values."""
    together = torch.randn(BLOCKS, KV_HEADS, BLOCK_TOKENS, 2 * HEAD).transpose(1, 2)
    keys, values = together.split(HEAD, dim=-1)
    return keys, values


def check_writes() -> None:
    keys, values = torch.randn(2, 7, KV_HEADS, HEAD)
    slots = torch.tensor([49, 50, 5, -1, 191, 0, 117])
    ours, theirs = caches(), caches()
    for mine, other in zip(ours, theirs, strict=True):
        other.copy_(mine)
    write_cache(keys, values, *ours, slots)
    triton_reshape_and_cache_flash(keys, values, *theirs, slots, "auto", ONE, ONE)
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def check_attention(rows: list[tuple[list[int], int, int]]) -> None:
    """``rows``: blocks, queries, and keys that the last query sees."""
    key_cache, value_cache = caches()
    queries = [count for _, count, _ in rows]
    starts = torch.tensor([0, *queries], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    query = torch.randn(int(starts[-1]), HEADS, HEAD)
    arguments = {
        "q": query,
        "k": key_cache,
        "v": value_cache,
        "cu_seqlens_q": starts,
        "max_seqlen_q": max(queries),
        "seqused_k": torch.tensor([keys for *_, keys in rows], dtype=torch.int32),
        "max_seqlen_k": max(keys for *_, keys in rows),
        "block_table": torch.tensor([blocks for blocks, *_ in rows], dtype=torch.int32),
        "softmax_scale": HEAD**-0.5,
        "causal": True,
    }
    expected = attend(out=torch.empty_like(query), **arguments)
    found = torch.empty_like(query)
    unified_attention(
        out=found,
        window_size=(-1, -1),
        softcap=0,
        q_descale=None,
        k_descale=ONE.expand(len(rows), KV_HEADS),
        v_descale=ONE.expand(len(rows), KV_HEADS),
        seq_threshold_3D=MOST_ROWS,
        num_par_softmax_segments=SEGMENTS,
        softmax_segm_output=torch.empty(MOST_ROWS, HEADS, SEGMENTS, HEAD),
        softmax_segm_max=torch.empty(MOST_ROWS, HEADS, SEGMENTS),
        softmax_segm_expsum=torch.empty(MOST_ROWS, HEADS, SEGMENTS),
        **arguments,
    )
    assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()


if __name__ == "__main__":
    torch.manual_seed(0)
    check_writes()
    # runs of one prompt, beside another prompt's next token
    check_attention([(FIRST, 3, 7), (FIRST, 1, 33), (FIRST, 12, 60), (SECOND, 1, 20)])
    # single tokens alone, for which Triton has a kernel of its own
    check_attention([(FIRST, 1, 7), (FIRST, 1, 33), (SECOND, 1, 20)])
    print("3 batches agree")
