"""What the scheduler believes of the workers' memory and disk, against workers that do as they are told."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mygo.blend.variants import Birth, BirthKind, DocumentTag, Variant, VariantKey
from mygo.types import DomainTag
from mygo.vllm_plugin.chunks.disk import ChunkHome, ChunkReport
from mygo.vllm_plugin.chunks.holdings import Holdings
from mygo.vllm_plugin.settings import ChunkSettings

DOMAIN = DomainTag("p")
RANKS = 2


def _variant(number: int) -> Variant:
    """Three of each of eight documents; some were born behind the next one."""
    document = DocumentTag(str(number // 3))
    before = (DocumentTag(str((number // 3 + 1) % 8)),)
    birth = Birth(BirthKind.CONTEXTUAL, before) if number % 3 else Birth(BirthKind.FILLER)
    return Variant(VariantKey(f"{number:032x}"), document, 10, 100 + number, DOMAIN, birth)


VARIANTS = [_variant(number) for number in range(24)]
KEYS = st.sampled_from(range(24))


class Workers(RuleBasedStateMachine):
    """Two ranks, whose disks answer when they like."""

    def __init__(self) -> None:
        super().__init__()
        chunks = ChunkSettings(host_bytes=600, disk_path="-", disk_bytes=1200, max_variants=2)
        self.holdings = Holdings(chunks, ChunkHome(Path("nowhere"), b"n" * 32), RANKS)
        self.memory: list[set[VariantKey]] = [set() for _ in range(RANKS)]
        self.disk: list[set[VariantKey]] = [set() for _ in range(RANKS)]
        self.reads: list[list[VariantKey]] = [[] for _ in range(RANKS)]
        self.pinned: list[VariantKey] = []
        self.captured: list[Variant] = []
        self.completed: list[list[Variant]] = [[], [], []]
        """By the step that is planned, last, and those before it."""
        self.purged: set[VariantKey] = set()
        """And not captured since."""

    @rule(number=KEYS)
    def capture(self, number: int) -> None:
        if self.holdings.wants(VARIANTS[number]) and VARIANTS[number] not in self.captured:
            self.holdings.filling(VARIANTS[number].key)
            self.holdings.put(VARIANTS[number])
            self.captured.append(VARIANTS[number])
            self.completed[-1].append(VARIANTS[number])
            self.purged.discard(VARIANTS[number].key)

    @rule(number=KEYS)
    def fetch(self, number: int) -> None:
        held = self.holdings._catalog.held(VARIANTS[number].document, {DOMAIN})
        if any(each.variant == VARIANTS[number] for each in held):
            self.holdings.fetch([VARIANTS[number]])

    @rule(number=KEYS)
    def pin(self, number: int) -> None:
        if self.holdings.has([VARIANTS[number]]):
            self.holdings.pin([VARIANTS[number].key])
            self.pinned.append(VARIANTS[number].key)

    @precondition(lambda self: self.pinned)
    @rule()
    def release(self) -> None:
        self.holdings.release([self.pinned.pop()])

    @rule()
    def step(self) -> None:
        step = self.holdings.take_step()
        captured, self.captured = self.captured, []
        self.completed = [*self.completed[1:], []]
        for memory, disk, reads in zip(self.memory, self.disk, self.reads, strict=True):
            if step.forget:
                memory.clear()
            disk.difference_update(step.erased)
            reads += step.reads
            memory.update(variant.key for variant in captured)
            for variant in step.writes:
                assert variant.key in memory
                disk.add(variant.key)
            memory.difference_update(step.dropped)
        assert not set(step.dropped) & set(self.pinned)

    @rule(rank=st.integers(0, RANKS - 1), fails=st.booleans())
    def disk_answers(self, rank: int, fails: bool) -> None:
        report = ChunkReport()
        for key in self.reads[rank]:
            if fails or key not in self.disk[rank]:
                report.lost.add(key)
            else:
                self.memory[rank].add(key)
                report.read[key] += 1
        self.reads[rank].clear()
        self.holdings.heard(report)

    @rule(number=st.integers(0, 7))
    def purge(self, number: int) -> None:
        gone = DocumentTag(str(number))
        self.holdings.purge([gone])
        for variant in VARIANTS:
            if gone in (variant.document, *variant.birth.before):
                self.purged.add(variant.key)

    @rule(rank=st.integers(0, RANKS - 1), number=KEYS)
    def is_missing(self, rank: int, number: int) -> None:
        """One rank was to load a chunk, and had it no more."""
        key = VARIANTS[number].key
        if self.holdings.has([VARIANTS[number]]) and VARIANTS[number] not in self.captured:
            self.memory[rank].discard(key)
            self.holdings.heard(ChunkReport(missing={key}))

    @rule()
    def loads_fail(self) -> None:
        self.holdings.distrust_latest()
        for variant in (variant for variants in self.completed for variant in variants):
            self.purged.add(variant.key)

    @invariant()
    def what_was_purged_does_not_come_back(self) -> None:
        """Not from disk, either, where it was being read."""
        for variant in VARIANTS:
            if variant.key in self.purged:
                held = self.holdings._catalog.held(variant.document, {DOMAIN})
                assert variant.key not in [each.variant.key for each in held]

    @precondition(lambda self: not self.captured and not self.pinned)
    @rule()
    def forget(self) -> None:
        self.holdings.forget()
        self.step()

    @invariant()
    def what_is_believed_to_be_in_memory_is_there(self) -> None:
        captured = {variant.key for variant in self.captured}
        for variant in VARIANTS:
            if self.holdings.has([variant]) and variant.key not in captured:
                assert all(variant.key in memory for memory in self.memory), variant.key

    @invariant()
    def memory_is_bounded(self) -> None:
        """After a step, by what is held, in use, or just coming."""
        if self.captured or self.holdings._dropped:
            return
        by_key = {variant.key: variant for variant in VARIANTS}
        coming = set(self.holdings._fetching)
        for memory in self.memory:
            kept = memory - set(self.pinned) - coming
            assert sum(by_key[key].kv_bytes for key in kept) <= 600


def test_other_ranks_let_go_of_a_chunk_that_one_rank_has_lost() -> None:
    holdings = Holdings(ChunkSettings(host_bytes=600), None, RANKS)
    key = VARIANTS[0].key
    holdings.put(VARIANTS[0])
    holdings.pin([key])
    assert holdings.take_step().dropped == []
    holdings.heard(ChunkReport(missing={key}))
    assert not holdings.has([VARIANTS[0]])
    assert holdings.take_step().dropped == [], "somebody is told to load it"
    holdings.release([key])
    assert holdings.take_step().dropped == [key]


TestHoldings = Workers.TestCase
TestHoldings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def _home(folder: Path) -> ChunkHome:
    return ChunkHome(folder, b"n" * 32)


def _write(home: ChunkHome, variant: Variant, *ranks: int) -> None:
    for rank in ranks:
        home.files(rank).write(variant, torch.zeros(10))


def test_what_a_smaller_disk_does_not_take_is_erased(tmp_path: Path) -> None:
    home = _home(tmp_path)
    for variant in VARIANTS[:3]:
        _write(home, variant, 0)
    holdings = Holdings(ChunkSettings(host_bytes=600, disk_path="-", disk_bytes=150), home, 1)
    left = {variant.key for variant in VARIANTS[:3]} - {*holdings.next_step.erased}
    assert len(left) == 1 and len(holdings.next_step.erased) == 2
    assert holdings.is_leaving


def test_part_of_which_the_first_rank_has_nothing_is_erased(tmp_path: Path) -> None:
    home = _home(tmp_path)
    _write(home, VARIANTS[0], 0, 1)
    _write(home, VARIANTS[3], 1)
    holdings = Holdings(ChunkSettings(host_bytes=600, disk_path="-", disk_bytes=1000), home, RANKS)
    assert holdings.next_step.erased == [VARIANTS[3].key]


def test_other_ranks_parts_are_erased_when_one_has_lost_its_own(tmp_path: Path) -> None:
    home = _home(tmp_path)
    _write(home, VARIANTS[0], 0, 1)
    holdings = Holdings(ChunkSettings(host_bytes=600, disk_path="-", disk_bytes=1000), home, RANKS)
    holdings.fetch([VARIANTS[0]])
    holdings.heard(ChunkReport(lost={VARIANTS[0].key}))
    assert holdings.next_step.erased == [VARIANTS[0].key]
    assert holdings.wants(VARIANTS[0])
