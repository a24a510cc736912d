"""Copies between the engine's tensors and host memory, here both in RAM: every byte, layer after layer."""

from __future__ import annotations

import mmap
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.kv_offload.base import (
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

from mygo.vllm_plugin.tiers.copier import LayerCopier, Piece, pieces

BLOCKS = 24
CHUNKS = 16
PAGE_BYTES = (64, 96, 32)
"""Of each tensor. Groups share tensors, as in a hybrid model: layer number n of each lies in tensor n."""


class Engine:
    """Device tensors of random bytes, and host memory behind them."""

    def __init__(self, groups: int = 1, load_s_per_byte: float = 0.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.device = [
            torch.randint(-128, 128, (BLOCKS, page_bytes), dtype=torch.int8, generator=generator)
            for page_bytes in PAGE_BYTES
        ]
        refs = [CanonicalKVCacheRef(number, page_bytes) for number, page_bytes in enumerate(PAGE_BYTES)]
        self.names = [[f"g{group}.l{layer}" for layer in range(len(refs))] for group in range(groups)]
        region = SharedOffloadRegion(uuid.uuid4().hex, CHUNKS, 0, mmap.PAGESIZE, sum(PAGE_BYTES))
        self.copier = LayerCopier(
            CanonicalKVCaches(
                [
                    CanonicalKVCacheTensor(tensor, page_bytes)
                    for tensor, page_bytes in zip(self.device, PAGE_BYTES, strict=True)
                ],
                [refs] * groups,
            ),
            self.names,
            region,
            load_s_per_byte,
        )

    def finish(self, *job_ids: int) -> None:
        self.copier.wait(set(job_ids))
        done = self.copier.get_finished()
        assert {result.job_id for result in done} == set(job_ids)
        assert all(result.success for result in done)

    def pages(self, layer: int, blocks: Sequence[int]) -> torch.Tensor:
        return self.device[layer][list(blocks)].clone()


@pytest.fixture
def make() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**options: float) -> Engine:
        made.append(Engine(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for engine in made:
        engine.copier.shutdown()


def device(blocks: Sequence[int], sizes: Sequence[int] | None = None) -> GPULoadStoreSpec:
    sizes = [len(blocks)] if sizes is None else sizes
    return GPULoadStoreSpec(list(blocks), sizes, [0] * len(sizes))


def host(chunks: Sequence[int]) -> CPULoadStoreSpec:
    return CPULoadStoreSpec(list(chunks))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_pieces_move_each_block_to_its_chunk_in_as_few_copies_as_there_are_runs(
    places: list[tuple[int, int]],
) -> None:
    found = pieces([block for block, _ in places], [chunk for _, chunk in places])
    moved = [
        pair
        for piece in found
        for pair in zip(
            range(piece.device.start, piece.device.stop),
            range(piece.host.start, piece.host.stop),
            strict=True,
        )
    ]
    assert moved == places
    breaks = sum(after != (before[0] + 1, before[1] + 1) for before, after in pairwise(places))
    assert len(found) == (breaks + 1 if places else 0)


def test_pieces_are_one_when_blocks_and_chunks_lie_side_by_side() -> None:
    assert pieces([3, 4, 5], [7, 8, 9]) == [Piece(slice(3, 6), slice(7, 10))]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.integers(1, 3), layerwise=st.booleans())
def test_bytes_come_back_as_they_left_whatever_the_blocks_and_chunks(
    seed: int, groups: int, layerwise: bool
) -> None:
    """Stored from some blocks, overwritten there, and loaded into others: nothing else has changed."""
    rng = random.Random(seed)
    engine = Engine(groups, seed=seed)
    try:
        count = rng.randrange(1, CHUNKS + 1)
        cuts = sorted(rng.randrange(count + 1) for _ in range(groups - 1))
        sizes = [end - start for start, end in zip([0, *cuts], [*cuts, count], strict=True)]
        chunks = rng.sample(range(CHUNKS), count)
        sources, targets = rng.sample(range(BLOCKS), count), rng.sample(range(BLOCKS), count)
        if rng.random() < 0.3:  # consecutive, as a fresh cache gives them
            chunks, sources = list(range(count)), list(range(2, 2 + count))
        before = [engine.pages(layer, sources) for layer in range(len(PAGE_BYTES))]
        assert engine.copier.submit_store(1, device(sources, sizes), host(chunks))
        engine.finish(1)
        for tensor in engine.device:
            tensor.zero_()
        if layerwise:
            engine.copier.submit_layerwise_load(2, host(chunks), device(targets, sizes))
            for name in [name for group in engine.names for name in group]:
                engine.copier.wait_for_layer(name)
        else:
            assert engine.copier.submit_load(2, host(chunks), device(targets, sizes))
        engine.finish(2)
        for layer, stored in enumerate(before):
            assert torch.equal(engine.pages(layer, targets), stored)
            others = [block for block in range(BLOCKS) if block not in targets]
            assert not engine.device[layer][others].any()
    finally:
        engine.copier.shutdown()


def test_layer_is_there_when_its_wait_ends_and_later_ones_are_still_under_way(
    make: Callable[..., Engine],
) -> None:
    """Two loads on a slow link: each layer takes at least its share of the time, of both."""
    s_per_byte = 4e-4
    engine = make(load_s_per_byte=s_per_byte)
    blocks, chunks = list(range(8)), list(range(8))
    before = [engine.pages(layer, blocks) for layer in range(len(PAGE_BYTES))]
    engine.copier.submit_store(1, device(blocks), host(chunks))
    engine.finish(1)
    for tensor in engine.device:
        tensor.zero_()
    began_s = time.perf_counter()
    engine.copier.submit_layerwise_load(2, host(chunks[:4]), device(blocks[:4]))
    engine.copier.submit_layerwise_load(3, host(chunks[4:]), device(blocks[4:]))
    least_s = 4 * sum(PAGE_BYTES) * s_per_byte  # the first of both
    for layer, page_bytes in enumerate(PAGE_BYTES):
        engine.copier.wait_for_layer(f"g0.l{layer}")
        assert torch.equal(engine.pages(layer, blocks), before[layer])
        least_s += 4 * page_bytes * s_per_byte
        assert time.perf_counter() - began_s >= least_s
        if layer == 0:  # 0.2 s before the end
            assert 3 not in {result.job_id for result in engine.copier.get_finished()}
    engine.copier.wait({2, 3})


def test_wait_returns_at_once_when_a_layer_has_nothing_to_load(make: Callable[..., Engine]) -> None:
    engine = make(groups=2)
    engine.copier.wait_for_layer("g0.l0")
    engine.copier.submit_layerwise_load(1, host([0]), device([0], [1, 0]))
    for name in ("g1.l0", "g1.l2", "g0.l2", "no such layer"):
        engine.copier.wait_for_layer(name)
    engine.finish(1)


def test_failed_copy_releases_who_waits_and_is_told(make: Callable[..., Engine]) -> None:
    engine = make()
    engine.copier._host[1] = torch.zeros((CHUNKS, 1), dtype=torch.int64)[:, :0]  # cannot be copied from
    engine.copier.submit_layerwise_load(1, host([0, 1]), device([0, 1]))
    for layer in range(len(PAGE_BYTES)):
        engine.copier.wait_for_layer(f"g0.l{layer}")
    with pytest.raises(RuntimeError):
        engine.copier.wait({1})


@pytest.mark.parametrize("whole", [False, True])
def test_loads_take_what_a_throttled_link_would(whole: bool, make: Callable[..., Engine]) -> None:
    s_per_byte = 2e-5
    engine = make(load_s_per_byte=s_per_byte)
    blocks = list(range(8))
    load = engine.copier.submit_load if whole else engine.copier.submit_layerwise_load
    load(1, host(blocks), device(blocks))
    load(2, host(blocks), device(blocks))
    engine.copier.wait({1, 2})
    results = engine.copier.get_finished()
    assert [result.job_id for result in results] == [1, 2]
    for result in results:
        assert result.transfer_size == 8 * sum(PAGE_BYTES)
        assert result.transfer_time is not None
        assert result.transfer_time >= result.transfer_size * s_per_byte


def test_probe_measures_a_load_and_leaves_the_device_as_it_was(make: Callable[..., Engine]) -> None:
    engine = make()
    before = [tensor.clone() for tensor in engine.device]
    moved_bytes, seconds = engine.copier.probe()
    assert moved_bytes == CHUNKS * sum(PAGE_BYTES)
    assert 0 < seconds < 1
    for tensor, was in zip(engine.device, before, strict=True):
        assert torch.equal(tensor, was)
