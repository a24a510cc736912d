"""LRU, LFU, GDSF and S3-FIFO beside libCacheSim's, on documents as independent objects."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest

from benchmarks.policies.paths import Replay, replay_of
from benchmarks.policies.replay import replay
from mygo.tree.policies import POLICIES
from mygo.workloads.presets import preset

GOLDEN = Path(__file__).with_name("policies_libcachesim.json")
"""Hits that libCacheSim 0.3.5 counts on ``trace()``, by cache size and policy."""
SIZES = ("0.02", "0.05", "0.1", "0.2")
NAMES = {"lru": "LRU", "lfu": "LFU", "gdsf": "GDSF", "s3fifo": "S3FIFO"}


@lru_cache
def trace() -> Replay:
    return replay_of(preset("ragpulse").trace(1, requests=1_000), single=True)


def capacity(size: str) -> int:
    return int(float(size) * trace().working_set_tokens)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_hits_agree_with_libcachesim_when_documents_are_independent(name: str, size: str) -> None:
    theirs = json.loads(GOLDEN.read_text())[size][name]
    ours = replay(trace(), capacity(size), POLICIES[name], lambda cached, new: float(new)).hits
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_golden_counts_are_libcachesims_when_it_is_installed(size: str) -> None:
    libcachesim = pytest.importorskip("libcachesim")
    found = {}
    for name, theirs in NAMES.items():
        cache = getattr(libcachesim, theirs)(capacity(size))
        found[name] = sum(
            cache.get(
                libcachesim.Request(
                    obj_size=access.tokens,
                    obj_id=int.from_bytes(access.blocks[0], "little"),
                    op=libcachesim.ReqOp.OP_GET,
                    valid=True,
                    clock_time=number,
                )
            )
            for number, access in enumerate(trace().accesses)
        )
    assert found == json.loads(GOLDEN.read_text())[size]
