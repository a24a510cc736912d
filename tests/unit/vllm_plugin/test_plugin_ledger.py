"""The ledger against a naive model: hashes with their tier, and every segment walked each time."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mygo.tree.keys import root_key, segment_key
from mygo.types import PUBLIC, ResidencyEvent, SegmentKey, SegmentSpan, Tier
from mygo.vllm_plugin.ledger import MAX_IDLE_OWNERS, Ledger

BLOCK_TOKENS = 4
ROOT = root_key(model="m", kv_dtype="bf16")


def _spans(segments: list[list[int]]) -> list[SegmentSpan]:
    spans = []
    key, end_tokens = ROOT, 0
    for ids in segments:
        key = segment_key(key, PUBLIC, ids)
        end_tokens += len(ids)
        spans.append(SegmentSpan(key, end_tokens, "salt"))
    return spans


def _hashes(segments: list[list[int]]) -> list[bytes]:
    """Like vLLM's: a hash names the whole prefix that ends with its block."""
    ids = [token for segment in segments for token in segment]
    return [repr(ids[:end]).encode() for end in range(BLOCK_TOKENS, len(ids) + 1, BLOCK_TOKENS)]


class _Cache:
    def __init__(self) -> None:
        self.resident: dict[bytes, set[Tier]] = {}

    def ledger(self) -> Ledger:
        return Ledger(BLOCK_TOKENS, self.tier_of, lambda block_hash: b"id" + block_hash)

    def tier_of(self, block_hash: bytes) -> Tier | None:
        return min(self.resident.get(block_hash, ()), key=list(Tier).index, default=None)

    def store(self, ledger: Ledger, hashes: list[bytes], tier: Tier = Tier.DEVICE) -> None:
        for block_hash in hashes:
            self.resident.setdefault(block_hash, set()).add(tier)
        ledger.observe((b"id" + block_hash for block_hash in hashes), tier)

    def remove(self, ledger: Ledger, hashes: list[bytes], tier: Tier = Tier.DEVICE) -> None:
        for block_hash in hashes:
            tiers = self.resident.get(block_hash, set())
            tiers.discard(tier)
            if not tiers:
                self.resident.pop(block_hash, None)
        ledger.observe((b"id" + block_hash for block_hash in hashes), tier)


def _statement(event: ResidencyEvent) -> tuple[int, int, int, bool]:
    return event.start_tokens, event.end_tokens, event.prefix_tokens, event.complete


def test_ledger_reports_each_segment_once_per_step_when_its_blocks_are_stored_in_pieces() -> None:
    cache, segments = _Cache(), [list(range(6)), list(range(10, 19))]
    ledger, spans, hashes = cache.ledger(), _spans(segments), _hashes(segments)
    ledger.begin("r", spans, hashes)
    assert ledger.take_events() == []
    cache.store(ledger, hashes[:1])
    cache.store(ledger, hashes[1:2])
    events = ledger.take_events()
    # block 0 ends in the first segment; blocks 1 and 2 end in the second, which ends at token 15
    assert [_statement(event) for event in events] == [(0, 6, 4, True), (6, 15, 8, False)]
    assert [event.parent for event in events] == [None, spans[0].key]
    assert ledger.take_events() == []
    cache.store(ledger, hashes[2:])
    assert [_statement(event) for event in ledger.take_events()] == [(6, 15, 12, True)]


def test_ledger_counts_only_leading_blocks_when_one_in_the_middle_is_removed() -> None:
    cache, segments = _Cache(), [list(range(20))]
    ledger, hashes = cache.ledger(), _hashes([list(range(20))])
    ledger.begin("r", _spans(segments), hashes)
    cache.store(ledger, hashes)
    ledger.take_events()
    cache.remove(ledger, hashes[2:3])
    assert [_statement(event) for event in ledger.take_events()] == [(0, 20, 8, False)]
    cache.remove(ledger, hashes[:1])
    assert [_statement(event) for event in ledger.take_events()] == [(0, 20, 0, False)]
    assert ledger.snapshot() == []


def test_ledger_reports_at_once_what_is_held_already_when_a_new_segment_shares_a_border_block() -> None:
    cache, document = _Cache(), list(range(6))
    first, second = [document, [50, 51, 1, 2]], [document, [50, 51, 3, 4]]
    ledger = cache.ledger()
    ledger.begin("a", _spans(first), _hashes(first))
    cache.store(ledger, _hashes(first))
    ledger.take_events()
    ledger.begin("b", _spans(second), _hashes(second))
    assert [_statement(event) for event in ledger.take_events()] == [(6, 10, 8, True)]


def test_ledger_keeps_a_segment_when_one_of_two_physical_blocks_of_a_hash_is_removed() -> None:
    cache, segments = _Cache(), [list(range(8))]
    ledger, hashes = cache.ledger(), _hashes(segments)
    ledger.begin("r", _spans(segments), hashes)
    cache.store(ledger, hashes)
    ledger.take_events()
    ledger.observe([b"id" + hashes[0]])  # "removed", but the cache still has the hash
    assert ledger.take_events() == []


def test_ledger_registers_the_answer_as_a_child_of_the_prompt_when_it_is_generated() -> None:
    cache, prompt, answer = _Cache(), [list(range(6))], [60, 61, 62]
    ledger = cache.ledger()
    ledger.begin("r", _spans(prompt), _hashes(prompt))
    spans, hashes = _spans([*prompt, answer]), _hashes([*prompt, answer])
    cache.store(ledger, hashes)
    ledger.extend("r", spans[1].key, 9, hashes)
    ledger.finish("r")
    events = {event.key: event for event in ledger.take_events()}
    assert events[spans[1].key] == ResidencyEvent(spans[1].key, spans[0].key, 6, 9, 8, True)


def test_ledger_forgets_idle_questions_when_one_hot_border_block_is_all_that_is_left_of_them() -> None:
    cache, document = _Cache(), list(range(6))
    ledger = cache.ledger()
    for question in range(100):
        segments = [document, [50, 51, question, question, question, question]]
        hashes = _hashes(segments)
        ledger.begin(str(question), _spans(segments), hashes)
        cache.store(ledger, hashes)
        ledger.take_events()
        cache.remove(ledger, hashes[2:])
        ledger.finish(str(question))
        ledger.take_events()
        ledger.check()
    assert len(ledger) == 1 + MAX_IDLE_OWNERS


_SEGMENTS = st.lists(st.lists(st.integers(0, 1), min_size=0, max_size=9), min_size=1, max_size=4).filter(
    lambda segments: sum(map(len, segments)) > 0
)


class LedgerAgainstSets(RuleBasedStateMachine):
    """Small alphabets, so that paths branch, share border blocks and come again."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = _Cache()
        self.ledger = self.cache.ledger()
        self.live: dict[str, list[list[int]]] = {}
        self.paths: list[list[list[int]]] = []
        self.told: dict[SegmentKey, ResidencyEvent] = {}
        self.untold = False
        self.count = 0

    def known_hashes(self) -> list[bytes]:
        return sorted({block_hash for path in self.paths for block_hash in _hashes(path)})

    @rule(segments=_SEGMENTS)
    def begin(self, segments: list[list[int]]) -> None:
        self.count += 1
        self.ledger.begin(str(self.count), _spans(segments), _hashes(segments))
        self.live[str(self.count)] = segments
        self.paths.append(segments)
        self.untold = True

    @precondition(lambda self: self.live)
    @rule(data=st.data(), answer=st.lists(st.integers(0, 1), max_size=9))
    def finish(self, data: st.DataObject, answer: list[int]) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        path = [*self.live.pop(request_id), answer]
        if answer:
            self.paths.append(path)
            span = _spans(path)[-1]
            self.ledger.extend(request_id, span.key, span.end_tokens, _hashes(path))
        self.ledger.finish(request_id)
        self.untold = True

    @rule(data=st.data(), tier=st.sampled_from(list(Tier)))
    def store(self, data: st.DataObject, tier: Tier) -> None:
        known = self.known_hashes()
        if known:
            self.cache.store(self.ledger, data.draw(st.lists(st.sampled_from(known))), tier)
            self.untold = True

    @rule(data=st.data(), tier=st.sampled_from(list(Tier)))
    def remove(self, data: st.DataObject, tier: Tier) -> None:
        if self.cache.resident:
            removed = data.draw(st.lists(st.sampled_from(sorted(self.cache.resident))))
            self.cache.remove(self.ledger, removed, tier)
            self.untold = True

    @rule(data=st.data())
    def stale_event(self, data: st.DataObject) -> None:
        """Duplicate and contradicting events, and events about blocks nobody asked for."""
        known = self.known_hashes()
        if known:
            names = [b"id" + name for name in data.draw(st.lists(st.sampled_from(known)))]
            self.ledger.observe(names, data.draw(st.sampled_from(list(Tier))))
        self.ledger.observe([b"unknown"])

    @rule()
    def clear(self) -> None:
        self.cache.resident.clear()
        self.ledger.observe_all()
        self.untold = True

    @rule()
    def take(self) -> None:
        for event in self.ledger.take_events():
            before = self.told.pop(event.key, None)
            assert event != before, "an event that says nothing new"
            if event.prefix_tokens:
                self.told[event.key] = event
        self.untold = False

    @invariant()
    def sound(self) -> None:
        self.ledger.check()
        assert {event.key: event for event in self.ledger.snapshot()} == self.told
        if self.untold:
            return
        truth = self.truth()
        for key, event in self.told.items():
            assert (event.prefix_tokens, event.complete, event.tier) == truth[key]
        live = {span.key for path in self.live.values() for span in _spans(path)}
        missing = {key for key, (prefix_tokens, _, _) in truth.items() if prefix_tokens} - self.told.keys()
        assert not missing & live
        if not self.cache.resident:
            assert len(self.ledger) == len(live)
        # memory: idle segments are bounded by what is resident
        assert len(self.ledger) <= len(live) + MAX_IDLE_OWNERS * len(self.cache.resident)

    def truth(self) -> dict[SegmentKey, tuple[int, bool, Tier]]:
        """(prefix_tokens, complete, slowest tier) of every segment that was ever named."""
        held: dict[SegmentKey, tuple[int, bool, Tier]] = {}
        for path in self.paths:
            hashes, start_tokens = _hashes(path), 0
            for span in _spans(path):
                owned = range(start_tokens // BLOCK_TOKENS, span.end_tokens // BLOCK_TOKENS)
                tiers = [self.cache.tier_of(hashes[block]) for block in owned]
                leading = [*itertools.takewhile(bool, tiers)]
                prefix_tokens = (owned.start + len(leading)) * BLOCK_TOKENS if leading else 0
                slowest = max((tier for tier in leading if tier), key=list(Tier).index, default=Tier.DEVICE)
                held[span.key] = (prefix_tokens, bool(owned) and len(leading) == len(tiers), slowest)
                start_tokens = span.end_tokens
        return held


LedgerAgainstSets.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLedgerAgainstSets = LedgerAgainstSets.TestCase


def test_ledger_tells_of_the_next_tier_when_one_after_the_other_lets_go() -> None:
    cache, segments = _Cache(), [list(range(8))]
    ledger, spans, hashes = cache.ledger(), _spans(segments), _hashes(segments)
    ledger.begin("r", spans, hashes)
    for tier, told in ((Tier.DEVICE, [Tier.DEVICE]), (Tier.HOST, []), (Tier.DISK, [])):
        cache.store(ledger, hashes, tier)
        assert [event.tier for event in ledger.take_events()] == told
    for tier, told in ((Tier.DEVICE, Tier.HOST), (Tier.HOST, Tier.DISK)):
        cache.remove(ledger, hashes, tier)
        (event,) = ledger.take_events()
        assert (event.tier, event.prefix_tokens) == (told, len(hashes) * BLOCK_TOKENS)
    cache.remove(ledger, hashes, Tier.DISK)
    (event,) = ledger.take_events()
    assert event.prefix_tokens == 0


def test_blocks_in_sight_of_a_passage_are_its_own_and_all_behind_it_on_any_path() -> None:
    cache = _Cache()
    ledger = cache.ledger()
    system, first, second, question = list(range(6)), list(range(10, 17)), list(range(20, 26)), [30, 31, 32]
    tags = {10: "a", 20: "b"}

    def begin(name: str, *segments: list[int]) -> list[bytes]:
        spans = [
            SegmentSpan(span.key, span.end_tokens, span.salt, tags.get(ids[0], ""))
            for span, ids in zip(_spans([*segments]), segments, strict=True)
        ]
        hashes = _hashes([*segments])
        ledger.begin(name, spans, hashes)
        return hashes

    both = begin("both", system, first, second, question)
    swapped = begin("swapped", system, second, first, question)
    without = begin("without", system, question)
    cache.store(ledger, [*both, *swapped, *without])
    ledger.take_events()
    # the first block is the system prompt's; the one that document and system share is the document's
    assert set(ledger.in_sight_of(["a"])) == {*both[1:], *swapped[3:]}
    assert set(ledger.in_sight_of(["a", "b"])) == {*both[1:], *swapped[1:]}
    assert ledger.in_sight_of(["c"]) == []
    assert [ledger.tags_of(block) for block in (both[0], both[1], both[-1], b"?")] == [
        frozenset(),
        {"a"},
        {"a", "b"},
        frozenset(),
    ]
    assert ledger.describe(both[1]) == ("a", "salt")
    assert ledger.describe(both[-1]) == ("", "salt")
    # what is gone from the middle of a path leaves its tag with what lies behind it
    for name in ("both", "swapped", "without"):
        ledger.finish(name)
    cache.remove(ledger, both[1:3])
    ledger.take_events()
    assert set(both[3:]) <= set(ledger.in_sight_of(["a"]))
