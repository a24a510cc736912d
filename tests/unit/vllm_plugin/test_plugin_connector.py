"""The plugin in vLLM's real scheduler: what it reports is what the block pool holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.errors import ConfigError
from mygo.tree.keys import root_key, segment_key
from mygo.types import PUBLIC, DomainTag, ResidencyEvent, SegmentKey, WorkerLoad

BLOCK_TOKENS = 4  # the scheduler's, see conftest
ROOT = root_key(model="m", kv_dtype="bf16")
TENANT = DomainTag("t")


class _Reports:
    """Stands where the socket is: keeps what the connector publishes."""

    def __init__(self, engine: Any) -> None:
        self.held: dict[SegmentKey, ResidencyEvent] = {}
        self.load = WorkerLoad()
        engine.connector.report_every_s = 0.0  # in each step
        reporter = engine.connector._reporter
        reporter.close()
        reporter.publish = self.publish

    def publish(self, events: Iterable[ResidencyEvent], load: WorkerLoad) -> None:
        for event in events:
            self.held.pop(event.key, None)
            if event.prefix_tokens:
                self.held[event.key] = event
        self.load = load


def _spans(segments: list[list[int]], private_from: int = 99) -> list[tuple[str, int, str]]:
    spans = []
    key, end_tokens = ROOT, 0
    for i, ids in enumerate(segments):
        domain = TENANT if i >= private_from else PUBLIC
        key = segment_key(key, domain, ids)
        end_tokens += len(ids)
        spans.append((key, end_tokens, f"salt of {domain}"))
    return spans


def _flat(segments: list[list[int]]) -> list[int]:
    return [token for segment in segments for token in segment]


@pytest.fixture
def engine(engine_factory: Callable[..., Any], tmp_path: Path) -> Any:
    return engine_factory(socket_path=str(tmp_path / "nobody-listens"))


def test_answer_is_reported_as_the_next_turn_will_name_it_when_a_stop_token_ends_it(engine: Any) -> None:
    reports = _Reports(engine)
    segments = [list(range(1, 11)), list(range(20, 25))]
    # the model says 7 whatever it is asked
    engine.add("1", _flat(segments), spans=_spans(segments, 1), answer_domain=TENANT, max_tokens=9)
    engine.drain()
    answer = [7] * 9
    engine.add(
        "2",
        _flat(segments),
        spans=_spans(segments, 1),
        answer_domain=TENANT,
        max_tokens=9,
        stop_token_ids=[7],
    )
    engine.drain()
    key, end_tokens, _ = _spans([*segments, answer], 1)[-1]
    event = reports.held[SegmentKey(key)]
    assert (event.parent, event.start_tokens, event.end_tokens) == (
        _spans(segments, 1)[-1][0],
        15,
        end_tokens,
    )
    # the last token's KV was never computed: 23 of 24 tokens, so 5 blocks
    assert (event.prefix_tokens, event.complete) == (20, False)
    assert len(reports.held) == 3, "an answer that is only a stop token is no segment"
    turn = [*segments, answer, [30, 31, 32]]
    before = engine.computed_tokens
    engine.add("3", _flat(turn), spans=_spans(turn, 1))
    engine.drain()
    assert engine.computed_tokens - before == len(_flat(turn)) - 20


def test_nothing_is_reported_as_held_when_an_idle_engine_resets_its_cache(engine: Any) -> None:
    reports = _Reports(engine)
    engine.add("1", list(range(1, 21)), spans=_spans([list(range(1, 21))]))
    engine.drain()
    assert reports.held
    assert engine.scheduler.reset_prefix_cache()
    assert not reports.held
    assert len(engine.connector._ledger) == 0


def test_idle_engine_has_told_everything_when_it_first_says_that_it_is_idle(engine: Any) -> None:
    """Scenario: a finish was reported before the events of the step in which it came."""
    reports = _Reports(engine)
    held_when_idle: list[int] = []
    publish = reports.publish

    def spy(events: Iterable[ResidencyEvent], load: WorkerLoad) -> None:
        publish(events, load)
        if not load.running and not load.waiting:
            held_when_idle.append(sum(event.prefix_tokens for event in reports.held.values()))

    engine.connector._reporter.publish = spy
    engine.add("1", list(range(1, 13)), spans=_spans([list(range(1, 13))]))
    engine.drain()
    assert held_when_idle[0] == 12


def test_load_counts_only_what_is_left_to_compute_when_siblings_wait(engine: Any) -> None:
    reports = _Reports(engine)
    document = list(range(1, 61))
    for i in range(3):
        engine.add(f"r{i}", [*document, i, i])
    assert reports.load.waiting == 3
    assert reports.load.queued_tokens == 3 * 62
    assert reports.load.free_tokens == 199 * BLOCK_TOKENS
    engine.step()
    assert (reports.load.running, reports.load.waiting) == (1, 2)
    # the leader has its document and question ahead of it, the siblings their two tokens
    assert reports.load.queued_tokens == 62 - 14 + 2 * 2
    engine.drain()
    assert reports.load == WorkerLoad(free_tokens=199 * BLOCK_TOKENS)


def test_connector_refuses_to_report_when_the_engine_has_no_events(
    engine_factory: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="kv_events_config"):
        engine_factory(socket_path=str(tmp_path / "s"), kv_events_config=None)


_SEGMENT = st.lists(st.integers(1, 3), min_size=1, max_size=14)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), blocks=st.integers(20, 60), max_running=st.integers(1, 5))
def test_reports_equal_the_pools_truth_when_blocks_are_evicted_preempted_and_reset(
    engine_factory: Callable[..., Any], data: st.DataObject, blocks: int, max_running: int
) -> None:
    engine = engine_factory(blocks=blocks, max_running=max_running, socket_path="/nobody-listens")
    reports = _Reports(engine)
    paths: dict[str, list[tuple[SegmentKey, int, int, list[bytes]]]] = {}
    for i in range(data.draw(st.integers(1, 25))):
        segments = data.draw(st.lists(_SEGMENT, min_size=1, max_size=4))
        spans = _spans(segments, data.draw(st.integers(0, 4)))
        request = engine.add(
            f"r{i}",
            _flat(segments),
            spans=spans,
            answer_domain=TENANT,
            max_tokens=data.draw(st.integers(1, 8)),
        )
        start_tokens, path = 0, []
        for key, end_tokens, _ in spans:
            path.append((SegmentKey(key), start_tokens, end_tokens, list(request.block_hashes)))
            start_tokens = end_tokens
        paths[f"r{i}"] = path
        for _ in range(data.draw(st.integers(0, 6))):
            engine.step()
            _assert_true(engine, reports, paths)
        action = data.draw(st.integers(0, 12))
        if action == 0 and engine.scheduler.requests:
            engine.abort(data.draw(st.sampled_from(sorted(engine.scheduler.requests))))
        elif action == 1:
            engine.scheduler.reset_prefix_cache(reset_running_requests=True)
            _assert_true(engine, reports, paths)
    engine.drain()
    _assert_true(engine, reports, paths)
    assert not engine.connector._requests and not engine.connector._maps
    assert not engine.connector._uncomputed_tokens
    assert set(engine.connector._ledger.snapshot()) == set(reports.held.values())


def _assert_true(engine: Any, reports: _Reports, paths: dict[str, Any]) -> None:
    pool = engine.scheduler.kv_cache_manager.block_pool
    for request_id, path in paths.items():
        for key, start_tokens, end_tokens, hashes in path:
            first, last = start_tokens // BLOCK_TOKENS, end_tokens // BLOCK_TOKENS
            resident = [pool.get_cached_block(hashes[block], [0]) is not None for block in range(first, last)]
            leading = [*resident, False].index(False)
            event = reports.held.get(key)
            if event is not None:
                assert event.prefix_tokens == (first + leading) * BLOCK_TOKENS
                assert event.complete == all(resident)
            elif request_id in engine.scheduler.requests:
                assert leading == 0
