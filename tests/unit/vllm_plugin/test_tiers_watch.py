"""What is counted of hits, evictions and their regret, and that it travels with the reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier, Uncached, WorkerLoad
from mygo.vllm_plugin.disk.records import DiskStats
from mygo.vllm_plugin.tiers.account import Account
from mygo.vllm_plugin.tiers.counters import REGRET_S, TierCounters
from mygo.vllm_plugin.tiers.watch import Watch
from mygo.vllm_plugin.wire import Batch, decode, frame

BLOCK_TOKENS = 4  # the scheduler's, see conftest
COLD = Account({}, {Uncached.EVICTED: 16})
QUIET: Any = {"held_at_arrival_tokens": 0, "held_tokens": 0, "prefetched_tokens": 0}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Host:
    """A host tier of two documents of four blocks each."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watch = Watch(self.clock)
        self.tree = KnowledgeTree(block_tokens=4, prefill_s=lambda cached, new: float(new))
        policy = make("lru", self.tree, 32, look_ahead=False)
        self.shelf = Shelf(self.tree, Tier.HOST, policy, on_evict=self.watch.evicted)
        for name in "ab":
            self.tree.begin(name, self.blocks(name))
            self.tree.admitted(name, 0)
            for block in self.blocks(name):
                self.shelf.put(block)
                self.shelf.unlock(block)
            self.tree.finished(name)

    @staticmethod
    def blocks(name: str) -> list[bytes]:
        return [f"{name}{number}".encode() for number in range(4)]

    def ask(self, name: str, cached_tokens: int) -> None:
        self.tree.begin("again", self.blocks(name))
        account = Account({Tier.HOST: cached_tokens}, {Uncached.EVICTED: 16 - cached_tokens})
        self.watch.admitted(account, self.tree.path("again"), **QUIET)
        self.tree.finished("again")

    @property
    def regretted(self) -> int:
        return self.watch.counters.regretted_tokens[Tier.HOST]


def test_eviction_is_regretted_when_its_tokens_are_computed_soon_after() -> None:
    host = Host()
    assert host.shelf.evict(6) is not None  # all of a and two blocks of b
    assert host.watch.counters.evicted_tokens == {Tier.DEVICE: 0, Tier.HOST: 24, Tier.DISK: 0}
    host.clock.now_s += REGRET_S
    host.ask("b", cached_tokens=8)
    assert host.regretted == 8
    host.ask("b", cached_tokens=8)
    assert host.regretted == 8, "once per eviction"
    host.clock.now_s += 0.1
    host.ask("a", cached_tokens=0)
    assert host.regretted == 8, "too late to be sorry"


def test_eviction_is_not_regretted_when_another_tier_still_had_the_tokens() -> None:
    host = Host()
    host.shelf.evict(4)
    host.ask("a", cached_tokens=16)
    assert host.regretted == 0


def test_evictions_are_forgotten_when_they_are_old() -> None:
    host = Host()
    host.shelf.evict(4)
    host.clock.now_s += REGRET_S + 1
    host.shelf.evict(1)
    assert len(host.watch._evicted) == 1


def test_prefetch_is_used_as_far_as_its_request_loads_from_disk_and_else_wasted() -> None:
    watch = Watch(Clock())
    account = Account({Tier.DISK: 8, Tier.HOST: 4}, {Uncached.PROMPT_END: 4})
    watch.admitted(account, (), **QUIET | {"prefetched_tokens": 12})
    watch.admitted(account, (), **QUIET | {"prefetched_tokens": 4})
    watch.prefetched(16, used_tokens=0)
    assert watch.counters.prefetch_used_tokens == 8 + 4
    assert watch.counters.prefetch_wasted_tokens == 4 + 16
    assert watch.counters.hit_tokens == {Tier.DEVICE: 0, Tier.HOST: 8, Tier.DISK: 16}


def test_refused_loads_and_losses_in_the_queue_are_counted() -> None:
    watch = Watch(Clock())
    refused = Account({}, {Uncached.NOT_WORTH_LOADING: 8, Uncached.PROMPT_END: 1})
    watch.admitted(refused, (), held_at_arrival_tokens=12, held_tokens=8, prefetched_tokens=0)
    watch.admitted(COLD, (), held_at_arrival_tokens=4, held_tokens=8, prefetched_tokens=0)
    assert watch.counters.refused_loads == 1
    assert watch.counters.evicted_while_queued_tokens == 4
    assert watch.counters.uncached_tokens[Uncached.NOT_WORTH_LOADING] == 8


def test_counters_survive_the_socket() -> None:
    counters = TierCounters(refused_loads=3, disk=DiskStats(damaged_chunks=2))
    counters.hit_tokens[Tier.DISK] = 64
    counters.load_s[Tier.HOST] = 0.5
    message = decode(frame(Batch(WorkerLoad(), (), False, counters))[4:])
    assert isinstance(message, Batch)
    assert asdict(message.counters) == asdict(counters)
    assert all(isinstance(tier, Tier) for tier in message.counters.hit_tokens)


def test_engine_counts_its_device_when_there_is_no_other_tier(engine_factory: Callable[..., Any]) -> None:
    engine = engine_factory(blocks=11, socket_path="/nobody-listens")  # ten of them for tokens
    for number, first in enumerate((0, 0, 50)):
        engine.add(str(number), [first + token for token in range(1, 34)])
        engine.drain()
    counters = engine.connector._tiers.counters()
    assert counters.hit_tokens[Tier.DEVICE] == 32
    assert counters.uncached_tokens[Uncached.NEVER_SEEN] == 2 * 32
    assert counters.capacity_tokens == {Tier.DEVICE: 40, Tier.HOST: 0, Tier.DISK: 0}
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert counters.held_tokens[Tier.DEVICE] == len(pool.cached_block_hash_to_block) * BLOCK_TOKENS
    # three prompts of eight blocks and a token, of which the second computed the token alone
    assert counters.evicted_tokens[Tier.DEVICE] == 2 * 32 - counters.held_tokens[Tier.DEVICE]


def test_tokens_lost_in_the_queue_are_counted_when_others_take_their_place(
    engine_factory: Callable[..., Any],
) -> None:
    engine = engine_factory(blocks=11, max_running=1)
    engine.add("first", list(range(1, 18)))
    engine.drain()
    engine.add("filler", list(range(20, 56)), max_tokens=3)
    engine.add("late", list(range(1, 18)))
    engine.drain()
    assert engine.connector._tiers.counters().evicted_while_queued_tokens == 16
    assert not engine.connector._tiers._held_at_arrival and not engine.connector._tiers._accounts
