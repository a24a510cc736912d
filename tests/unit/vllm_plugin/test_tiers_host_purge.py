"""Purging host memory, against vLLM's own manager: idle chunks at once, others when nobody uses them."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.v1.kv_offload.base import ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier
from mygo.vllm_plugin.tiers.host_policy import TreeCachePolicy

CHUNKS = 4


class Host:
    def __init__(self) -> None:
        self.tree = KnowledgeTree(block_tokens=4, prefill_s=lambda cached, new: float(new))
        self.shelf = Shelf(self.tree, Tier.HOST, make("lru", self.tree, 16, look_ahead=False))
        self.manager = CPUOffloadingManager(CHUNKS)
        self.policy = self.manager._policy = TreeCachePolicy(CHUNKS, self.shelf)
        self.context = ReqContext(req_id="r")

    def store(self, *numbers: int, complete: bool = True) -> bool:
        keys = [key(number) for number in numbers]
        if self.manager.prepare_store(keys, self.context) is None:
            return False
        if complete:
            self.manager.complete_store(keys, self.context)
        return True

    def free(self, gone: list[Any]) -> list[bytes]:
        """What ``TierScheduler`` does with what the policy let go."""
        for _, chunk in gone:
            self.manager._free_chunk(chunk)
        self.manager._num_evictable_cache_chunks -= len(gone)
        return [each for each, _ in gone]

    def check(self) -> None:
        used = CHUNKS - self.manager._get_num_free_chunks()
        assert len(self.policy) == used
        self.policy.settle()
        assert set(self.shelf) == {each[:-4] for each in self.policy._chunks}
        idle = sum(chunk.ref_cnt == 0 for chunk in self.policy._chunks.values())
        assert self.manager._num_evictable_cache_chunks == idle


def key(number: int) -> Any:
    return make_offload_key(bytes([number]) * 32, 0)


@pytest.fixture
def host() -> Host:
    return Host()


def test_idle_chunks_leave_at_once_and_make_room(host: Host) -> None:
    host.store(1, 2, 3, 4)
    assert host.free(host.policy.purge([key(2), key(9)])) == [key(2)]
    assert not host.policy.holds(key(2)) and host.policy.holds(key(1))
    host.check()
    assert host.store(5)
    assert not host.policy.has_doomed
    host.check()


def test_chunk_that_is_read_is_held_no_more_and_leaves_when_the_read_ends(host: Host) -> None:
    host.store(1, 2)
    host.manager.prepare_load([key(1)], host.context)
    assert host.free(host.policy.purge([key(1)])) == []
    assert host.policy.has_doomed and not host.policy.holds(key(1))
    assert host.policy.purged() == []
    host.manager.complete_load([key(1)], host.context)
    assert host.free(host.policy.purged()) == [key(1)]
    host.check()


def test_chunk_that_is_written_leaves_when_it_is_there(host: Host) -> None:
    host.store(1, complete=False)
    host.policy.purge([key(1)])
    host.manager.complete_store([key(1)], host.context)
    assert host.free(host.policy.purged()) == [key(1)]
    host.check()


def test_doomed_chunk_is_forgotten_when_its_write_fails_or_it_is_evicted_first(host: Host) -> None:
    host.store(1, complete=False)
    host.policy.purge([key(1)])
    host.manager.complete_store([key(1)], host.context, success=False)
    assert not host.policy.has_doomed
    host.store(2, complete=False)
    host.policy.purge([key(2)])
    host.manager.complete_store([key(2)], host.context)
    assert host.store(3, 4, 5, 6)
    assert host.policy.purged() == [] and not host.policy.has_doomed
    host.check()
