"""What host memory is about to give up goes back to disk, if the disk has given it up before."""

from __future__ import annotations

from typing import Any

from shelf_model import knowledge_tree, path
from vllm.v1.kv_offload.base import OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager

from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier
from mygo.vllm_plugin.tiers.demotion import Demotion
from mygo.vllm_plugin.tiers.host_policy import TreeCachePolicy

CHUNKS = 32
AHEAD = CHUNKS // 8
CONTEXT = ReqContext(req_id="r")


class _Memory:
    def create_kv_memoryview(self) -> memoryview:
        return memoryview(bytes(CHUNKS)).cast("B", shape=[CHUNKS, 1])

    def cleanup(self) -> None:
        pass


class _Disk:
    """Stands for the tier and its store: remembers what it was given to write."""

    def __init__(self) -> None:
        self.here: set[OffloadKey] = set()
        self.writes: list[list[OffloadKey]] = []

    @property
    def store(self) -> _Disk:
        return self

    def holds(self, key: OffloadKey) -> bool:
        return key in self.here

    def submit_store(self, keys: list[OffloadKey]) -> None:
        self.writes.append(keys)


class _Manager:
    """Stands for vLLM's manager above a real primary tier: a job pins what it copies."""

    def __init__(self) -> None:
        self.primary = CPUPrimaryTierOffloadingManager(CHUNKS, _Memory(), enable_events=True)

    def create_store_job(self, keys: list[OffloadKey], context: ReqContext) -> list[OffloadKey]:
        self.primary.prepare_read(keys, context)
        return keys


class Rig:
    def __init__(self) -> None:
        self.tree = knowledge_tree()
        self.manager = _Manager()
        shelf = Shelf(self.tree, Tier.HOST, make("lru", self.tree, CHUNKS * 4))
        self.host = self.manager.primary._policy = TreeCachePolicy(CHUNKS, shelf)
        self.disk = _Disk()
        parts: Any = (self.manager, self.host, self.disk)
        self.demotion = Demotion(*parts, CHUNKS)
        self.stored = 0

    def store(self, documents: int, *, on_disk: bool) -> list[OffloadKey]:
        """Documents of one block each, one after the other."""
        keys: list[OffloadKey] = []
        for _ in range(documents):
            self.stored += 1
            blocks = path([self.stored])
            self.tree.begin(str(self.stored), blocks)
            self.tree.admitted(str(self.stored), 0)
            key = make_offload_key(blocks[0], 0)
            assert self.manager.primary.prepare_store([key], CONTEXT) is not None
            self.manager.primary.complete_store([key], CONTEXT)
            self.tree.finished(str(self.stored))
            keys.append(key)
        self.disk.here |= set(keys) if on_disk else set()
        return keys


def test_next_to_leave_are_written_when_the_disk_lacks_them() -> None:
    rig = Rig()
    first = rig.store(CHUNKS, on_disk=True)
    rig.disk.here -= {first[AHEAD], first[AHEAD + 2], first[-1]}
    rig.store(AHEAD, on_disk=True)
    rig.demotion.step()
    assert rig.disk.writes == [[first[AHEAD], first[AHEAD + 2]]], "the last one is not about to leave"


def test_chunk_leaves_host_memory_only_after_it_was_written() -> None:
    rig = Rig()
    first = rig.store(CHUNKS, on_disk=False)
    rig.store(AHEAD, on_disk=True)  # the oldest are lost: nobody had looked yet
    rig.demotion.step()
    (written,) = rig.disk.writes
    assert written == first[AHEAD : 2 * AHEAD]
    rig.store(AHEAD, on_disk=True)
    assert all(rig.host.holds(key) for key in written), "they are being written"
    rig.manager.primary.complete_read(written, CONTEXT)
    rig.store(AHEAD, on_disk=True)
    assert not any(rig.host.holds(key) for key in written)


def test_nothing_is_looked_at_while_nothing_leaves() -> None:
    rig = Rig()
    rig.store(CHUNKS, on_disk=False)
    rig.demotion.step()
    assert rig.disk.writes == []
    rig.store(AHEAD // 2, on_disk=True)
    rig.demotion.step()
    rig.demotion.step()
    assert len(rig.disk.writes) == 1
