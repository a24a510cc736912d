"""Host memory's policy in vLLM's own manager, against a naive model of what is stored, used and free."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shelf_model import check_order, knowledge_tree, path, willing
from vllm.v1.kv_offload.base import (
    LookupResult,
    OffloadKey,
    ReqContext,
    get_offload_block_hash,
    make_offload_key,
)
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager

from mygo.tree.exits import Mirrors
from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier
from mygo.vllm_plugin.tiers.host_policy import TreeCachePolicy

CHUNKS = 12
WRITING = -1

texts = st.lists(st.integers(0, 1), min_size=1, max_size=6)
picks = st.integers(0, 1_000)


class _Memory:
    """What the manager of host memory needs of vLLM's shared region."""

    def create_kv_memoryview(self) -> memoryview:
        return memoryview(bytearray(CHUNKS)).cast("B", shape=[CHUNKS, 1])

    def cleanup(self) -> None:
        pass


def manager_of(kind: str) -> Any:
    if kind == "host alone":
        return CPUOffloadingManager(CHUNKS, enable_events=True)
    return CPUPrimaryTierOffloadingManager(CHUNKS, _Memory(), enable_events=True)


class HostPolicyMachine(RuleBasedStateMachine):
    """The model: the chunks that are here, each with the number of its readers, or WRITING."""

    @initialize(
        kind=st.sampled_from(["host alone", "above a disk"]),
        policy=st.sampled_from(["lru", "pgdsf", "s3fifo", "arc", "forecast"]),
        groups=st.integers(1, 3),
        mirrors=st.booleans(),
    )
    def start(self, kind: str, policy: str, groups: int, mirrors: bool) -> None:
        self.groups = groups
        self.tree = knowledge_tree()
        self.shelf = Shelf(
            self.tree,
            Tier.HOST,
            make(policy, self.tree, CHUNKS * 4),
            mirrors=Mirrors(Tier.DEVICE) if mirrors else None,
        )
        self.manager = manager_of(kind)
        self.policy = self.manager._policy = TreeCachePolicy(CHUNKS, self.shelf)
        self.here: dict[OffloadKey, int] = {}
        self.told: set[OffloadKey] = set()
        """Chunks that the manager's events say are readable."""
        self.begun = 0

    # --- what vLLM does ---

    @rule(text=texts)
    def begin(self, text: list[int]) -> None:
        """A prompt that the tree knows from now on."""
        self.begun += 1
        self.tree.begin(f"r{self.begun}", path(text))
        self.tree.admitted(f"r{self.begun}", 0)
        self.tree.finished(f"r{self.begun}")

    @rule(text=texts, first=st.integers(0, 5), group_ids=st.sets(st.integers(0, 2), min_size=1))
    def prepare_store(self, text: list[int], first: int, group_ids: set[int]) -> None:
        """A sliding window's groups store only some of a path's blocks."""
        blocks = path(text)[first:]
        keys = [make_offload_key(block, group) for group in sorted(group_ids) for block in blocks]
        keys = [key for key in keys if int.from_bytes(key[-4:]) < self.groups]
        context = ReqContext(req_id=f"s{len(self.told)}")
        fresh = [key for key in keys if key not in self.here]
        missing = len(fresh) - (CHUNKS - len(self.here))
        may_leave = self._may_leave(protected=set(keys))
        available = sum(get_offload_block_hash(key) in may_leave for key in self.here)
        output = self.manager.prepare_store(keys, context)
        if missing > available:
            assert output is None
            return
        assert output is not None
        assert output.keys_to_store == fresh
        gone = list(output.evicted_keys)
        assert len(gone) == len(set(gone))
        by_block: dict[bytes, int] = {}
        for key in gone:
            block = get_offload_block_hash(key)
            by_block[block] = by_block.get(block, 0) + 1
            assert self.here.pop(key) == 0, "a chunk left while it was in use"
        assert by_block.keys() <= may_leave
        assert not by_block.keys() & self._blocks(), "part of a block stayed"
        check_order(self.tree, by_block, self._blocks())
        if missing > 0:
            last = list(by_block)[-1]
            assert len(gone) - by_block[last] < missing <= len(gone), "more left than was needed"
        else:
            assert not gone
        self.here |= dict.fromkeys(fresh, WRITING)

    @precondition(lambda self: WRITING in self.here.values())
    @rule(pick=picks, count=st.integers(1, 6), success=st.booleans())
    def complete_store(self, pick: int, count: int, success: bool) -> None:
        writing = [key for key, readers in self.here.items() if readers == WRITING]
        keys = writing[pick % len(writing) :][:count]
        self.manager.complete_store(keys, ReqContext(req_id="r"), success)
        for key in keys:
            if success:
                self.here[key] = 0
            else:
                del self.here[key]

    @rule(picked=st.lists(picks, min_size=1, max_size=4))
    def prepare_load(self, picked: list[int]) -> None:
        ready = [key for key, readers in self.here.items() if readers != WRITING]
        keys = list(dict.fromkeys(ready[pick % len(ready)] for pick in picked)) if ready else []
        for key in keys:
            self.here[key] += 1
        loaded = self.manager.prepare_load(keys, ReqContext(req_id="r"))
        assert loaded.block_ids.tolist() == [self.policy._chunks[key].chunk_id for key in keys]

    @precondition(lambda self: any(readers > 0 for readers in self.here.values()))
    @rule(picked=st.lists(picks, min_size=1, max_size=4))
    def complete_load(self, picked: list[int]) -> None:
        read = [key for key, readers in self.here.items() if readers > 0]
        keys = list(dict.fromkeys(read[pick % len(read)] for pick in picked))
        self.manager.complete_load(keys, ReqContext(req_id="r"))
        for key in keys:
            self.here[key] -= 1

    @rule(blocks=st.integers(1, 6))
    def look_ahead(self, blocks: int) -> None:
        """Which chunks leave next: idle ones, whole blocks, and nothing changes."""
        keys = self.policy.leaving(blocks)
        may_leave = self._may_leave(protected=set())
        found = dict.fromkeys(map(get_offload_block_hash, keys))
        assert len(found) == min(blocks, len(may_leave)) and found.keys() <= may_leave
        assert set(keys) == {key for key in self.here if get_offload_block_hash(key) in found}

    @rule(text=texts)
    def touch(self, text: list[int]) -> None:
        self.manager.touch([make_offload_key(block, 0) for block in path(text)], ReqContext(req_id="r"))

    @rule(really=st.integers(0, 9))
    def reset(self, really: int) -> None:
        if not really:
            self.manager.reset_cache()
            self.here.clear()
            self.told.clear()
            list(self.manager.take_events())

    # --- the naive model ---

    def _blocks(self) -> set[bytes]:
        return {get_offload_block_hash(key) for key in self.here}

    def _may_leave(self, protected: set[OffloadKey]) -> set[bytes]:
        used = {get_offload_block_hash(key) for key, readers in self.here.items() if readers}
        kept = {get_offload_block_hash(key) for key in protected}
        return willing(self.tree, self._blocks(), self._blocks() - used - kept)

    @invariant()
    def manager_counts_what_is_here(self) -> None:
        if not hasattr(self, "manager"):
            return
        assert len(self.policy) == len(self.here)
        for key, readers in self.here.items():
            chunk = self.policy.get(key)
            assert chunk is not None and chunk.ref_cnt == readers and self.policy.holds(key)
            found = LookupResult.HIT_PENDING if readers == WRITING else LookupResult.HIT
            assert self.manager.lookup(key, ReqContext(req_id="r")) is found
        states = list(self.here.values())
        assert self.manager._num_evictable_cache_chunks == states.count(0)
        assert self.manager._num_write_pending_chunks == states.count(WRITING)
        assert self.manager._get_num_free_chunks() == CHUNKS - len(states)
        ids = [self.policy._chunks[key].chunk_id for key in self.here] + self.manager._free_list
        assert len(ids) == len(set(ids)) == self.manager._num_allocated_chunks

    @rule()
    def settle(self) -> None:
        self.policy.settle()

    @invariant()
    def shelf_holds_blocks_with_their_users(self) -> None:
        if not hasattr(self, "manager") or self.policy._came or self.policy._idle:
            return
        users = dict.fromkeys(self._blocks(), 0)
        for key, readers in self.here.items():
            users[get_offload_block_hash(key)] += readers != 0
        assert self.shelf._users == users

    @invariant()
    def events_tell_what_can_be_read(self) -> None:
        if not hasattr(self, "manager"):
            return
        for event in self.manager.take_events():
            if event.removed:
                self.told -= set(event.keys)
            else:
                self.told |= set(event.keys)
        assert self.told == {key for key, readers in self.here.items() if readers != WRITING}


TestHostPolicyMachine = HostPolicyMachine.TestCase
TestHostPolicyMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
