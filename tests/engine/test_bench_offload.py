"""The benchmark's copies between "device" and host blocks, with vLLM's own types and no engine."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytestmark = pytest.mark.engine

PAGE_BYTES = 64
BLOCKS = 40
CHUNKS = 12
TENSORS = 3


def worker(blocks_per_chunk: int, load_s_per_byte: float = 0.0) -> tuple[Any, list[Any]]:
    """A worker over ``TENSORS`` tensors of random bytes, and the tensors as int8 [blocks, page bytes]."""
    import torch
    from vllm.v1.kv_offload.base import CanonicalKVCacheRef, CanonicalKVCaches, CanonicalKVCacheTensor
    from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

    from benchmarks.systems.cpu_offload import NumpyOffloadingWorker

    chunk_bytes = TENSORS * PAGE_BYTES * blocks_per_chunk
    alignment = SharedOffloadRegion.BLOCK_SIZE_ALIGNMENT
    region = SharedOffloadRegion(
        engine_id=f"test-{uuid4().hex}",
        num_chunks=CHUNKS,
        rank=0,
        kv_bytes_per_chunk=-(-chunk_bytes // alignment) * alignment,
        cpu_page_size=chunk_bytes,
    )
    tensors = [torch.randint(-128, 128, (BLOCKS, PAGE_BYTES), dtype=torch.int8) for _ in range(TENSORS)]
    caches = CanonicalKVCaches(
        tensors=[CanonicalKVCacheTensor(tensor, PAGE_BYTES) for tensor in tensors],
        group_data_refs=[[CanonicalKVCacheRef(index, PAGE_BYTES) for index in range(TENSORS)]],
    )
    return NumpyOffloadingWorker(caches, blocks_per_chunk, region, load_s_per_byte), tensors


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    workers: list[Any] = []
    yield workers
    for each in workers:
        each.shutdown()
    assert not list(Path("/dev/shm").glob("vllm_offload_test-*"))


@pytest.mark.parametrize("blocks_per_chunk", [1, 2, 4])
def test_loaded_bytes_are_the_stored_ones(closing: list[Any], blocks_per_chunk: int) -> None:
    """Blocks of a request are stored, their places on the device overwritten, and loaded into others."""
    from vllm.v1.kv_offload.base import GPULoadStoreSpec
    from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec

    rng = random.Random(blocks_per_chunk)
    copier, tensors = worker(blocks_per_chunk)
    closing.append(copier)
    for job in range(0, 20, 2):
        first = rng.randrange(3)  # a block of the request that need not begin a chunk
        count = rng.randrange(1, 9)
        chunks = rng.sample(range(CHUNKS), -(-(first % blocks_per_chunk + count) // blocks_per_chunk))
        old, new = rng.sample(range(BLOCKS), count), rng.sample(range(BLOCKS), count)
        kept = [tensor[old].clone() for tensor in tensors]
        copier.submit_store(job, GPULoadStoreSpec(old, [count], [first]), CPULoadStoreSpec(chunks))
        copier.wait({job})
        for tensor in tensors:
            tensor[old] = 0
        copier.submit_load(job + 1, CPULoadStoreSpec(chunks), GPULoadStoreSpec(new, [count], [first]))
        copier.wait({job + 1})
        assert all((tensor[new] == bytes_).all() for tensor, bytes_ in zip(tensors, kept, strict=True))
        results = {result.job_id: result for result in copier.get_finished()}
        assert results.keys() == {job, job + 1}
        assert all(each.success for each in results.values())
        assert results[job].transfer_size == count * TENSORS * PAGE_BYTES
    assert copier.get_finished() == []


def test_loads_share_the_speed_of_a_throttled_link(closing: list[Any]) -> None:
    from vllm.v1.kv_offload.base import GPULoadStoreSpec
    from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec

    block_s = 0.02
    copier, _ = worker(1, block_s / (TENSORS * PAGE_BYTES))
    closing.append(copier)
    copier.submit_store(0, GPULoadStoreSpec([0, 1], [2], [0]), CPULoadStoreSpec([0, 1]))
    copier.wait({0})
    (stored,) = copier.get_finished()
    assert stored.transfer_time < block_s
    started = time.perf_counter()
    copier.submit_load(1, CPULoadStoreSpec([0, 1]), GPULoadStoreSpec([2, 3], [2], [0]))
    copier.submit_load(2, CPULoadStoreSpec([0, 1]), GPULoadStoreSpec([4, 5], [2], [0]))
    assert copier.get_finished() == []
    copier.wait({1, 2})
    assert time.perf_counter() - started >= 4 * block_s
