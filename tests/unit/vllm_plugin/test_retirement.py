"""Deleted passages in vLLM's real scheduler: nothing that was computed in their sight is hit again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.tree.keys import passage_tag, root_key, segment_key
from mygo.types import PUBLIC, ContentHash, DomainTag
from mygo.vllm_plugin.retirement import LATE_S
from mygo.vllm_plugin.settings import TierSettings, engine_arguments

BLOCK_TOKENS = 4  # the scheduler's, see conftest
ROOT = root_key(model="m", kv_dtype="bf16")
SYSTEM = list(range(1, 9))


def tag(document: int) -> str:
    return passage_tag(b"secret", PUBLIC, ContentHash(f"{document}"))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Served:
    """An engine that is asked about documents, by number: [system][document]...[question]."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.retirement = engine.connector._retirement
        self.clock = self.retirement._clock = Clock()
        self.pool = engine.scheduler.kv_cache_manager.block_pool
        self.requests: dict[str, tuple[Any, list[tuple[int, int]]]] = {}
        """Request, and its segments' (document, first token)."""

    def add(self, *documents: int, question: int = 60, max_tokens: int = 1) -> str:
        segments = [(0, SYSTEM), *((n, document(n)) for n in documents), (0, [question] * 5)]
        key, ids, spans, starts = ROOT, [], [], []
        for number, segment in segments:
            key = segment_key(key, PUBLIC, segment)
            starts.append((number, len(ids)))
            ids += segment
            spans.append((key, len(ids), "salt", tag(number) if number else ""))
        name = f"r{len(self.requests)}"
        request = self.engine.add(name, ids, spans=spans, answer_domain=DomainTag("t"), max_tokens=max_tokens)
        self.requests[name] = request, starts
        return name

    def computed(self, *documents: int, **options: Any) -> int:
        before = self.engine.computed_tokens
        self.add(*documents, **options)
        self.engine.drain()
        return int(self.engine.computed_tokens - before)

    def in_sight(self, gone: set[int]) -> list[bytes]:
        """Hashes of cached blocks that hold a token behind the beginning of one of these documents."""
        found = []
        for request, starts in self.requests.values():
            first = min((start for number, start in starts if number in gone), default=None)
            if first is not None:
                hashes = request.block_hashes[first // BLOCK_TOKENS :]
                found += [each for each in hashes if self.pool.get_cached_block(each, [0])]
        return found

    def check_pool(self) -> None:
        free = self.pool.free_block_queue.get_all_free_blocks()
        assert len(free) == len({block.block_id for block in free}) == self.pool.get_num_free_blocks()
        assert all(block.ref_cnt == 0 for block in free)


def document(number: int) -> list[int]:
    """No two begin alike: blocks in which only such a beginning lies would be the other one's, too."""
    rng = random.Random(number)
    return [20 + number, *(rng.randrange(20, 60) for _ in range(4 + 3 * number))]


def tokens(*documents: int) -> int:
    return len(SYSTEM) + sum(len(document(number)) for number in documents) + 5


def _serve(engine_factory: Callable[..., Any], device_policy: str, **options: Any) -> Served:
    arguments = engine_arguments("/nobody-listens", tiers=TierSettings(device_policy=device_policy))
    return Served(engine_factory(socket_path="/nobody-listens", **options, **arguments))


@pytest.fixture(params=["vllm", "lru"])
def served(request: pytest.FixtureRequest, engine_factory: Callable[..., Any]) -> Served:
    return _serve(engine_factory, request.param)


def test_purged_document_and_what_lies_behind_it_are_computed_anew_and_the_rest_stays(
    served: Served,
) -> None:
    for documents in [(1, 2, 3), (1, 3), (3,)]:
        served.computed(*documents)
    whole = served.computed(1, 3)
    assert whole < BLOCK_TOKENS + 2
    served.retirement.purge([tag(2)])
    assert not served.in_sight({2})
    assert served.computed(1, 3) == whole, "another path does not hold it"
    kept = (len(SYSTEM) + len(document(1))) // BLOCK_TOKENS * BLOCK_TOKENS
    served.clock.now_s = LATE_S + 1
    assert served.computed(1, 2, 3) == tokens(1, 2, 3) - kept
    assert served.computed(1, 2, 3) < BLOCK_TOKENS + 2, "a document that comes back is cached again"
    served.check_pool()


def test_late_prompt_shares_nothing_of_a_purged_document(served: Served) -> None:
    """Scenario: the prompt was built before the deletion, and comes after it."""
    served.computed(1, 2)
    served.retirement.purge([tag(2)])
    shared = (len(SYSTEM) + len(document(1))) // BLOCK_TOKENS * BLOCK_TOKENS
    for _ in range(2):
        assert served.computed(1, 2) == tokens(1, 2) - shared
    served.clock.now_s = LATE_S + 1
    assert served.computed(1, 2) == tokens(1, 2) - shared, "nor does what it left behind"


def test_running_and_waiting_requests_leave_nothing_of_a_purged_document(
    engine_factory: Callable[..., Any],
) -> None:
    served = _serve(engine_factory, "vllm", max_running=1)
    running, waiting = served.add(2, max_tokens=9), served.add(3, 2, max_tokens=9)
    served.engine.step()
    served.retirement.purge([tag(2)])
    served.engine.drain()
    assert not served.in_sight({2})
    assert all(served.requests[name][0].is_finished() for name in (running, waiting))
    assert not served.retirement._live and not served.retirement._doomed
    served.check_pool()


def test_purge_is_told_to_the_directory(served: Served) -> None:
    served.computed(1, 2)
    told: dict[Any, Any] = {}
    served.engine.connector._reporter.publish = lambda events, load: told.update(
        {event.key: event.prefix_tokens for event in events}
    )
    served.retirement.purge([tag(1)])
    served.engine.step()
    # the document's segment, and the question behind it
    assert list(told.values()).count(0) == 3


def test_unknown_and_repeated_tags_change_nothing(served: Served) -> None:
    served.computed(1)
    served.retirement.purge([tag(9), tag(9)])
    served.retirement.purge([])
    assert served.computed(1) < BLOCK_TOKENS + 2


@settings(max_examples=40, deadline=None)
@given(data=st.data(), device_policy=st.sampled_from(["vllm", "lru", "pgdsf"]), blocks=st.integers(24, 60))
def test_nothing_in_sight_of_a_purged_document_is_cached_when_requests_come_and_go(
    engine_factory: Callable[..., Any], data: st.DataObject, device_policy: str, blocks: int
) -> None:
    served = _serve(engine_factory, device_policy, blocks=blocks, max_running=data.draw(st.integers(1, 3)))
    gone: set[int] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.integers(0, 5)):
            case 0:
                doomed = data.draw(st.integers(1, 4))
                gone.add(doomed)
                served.retirement.purge([tag(doomed)])
            case 1 if served.engine.scheduler.requests:
                served.engine.abort(data.draw(st.sampled_from(sorted(served.engine.scheduler.requests))))
            case 2 | 3:
                served.add(
                    *data.draw(st.permutations([1, 2, 3, 4]))[: data.draw(st.integers(0, 3))],
                    question=data.draw(st.integers(60, 61)),
                    max_tokens=data.draw(st.integers(1, 6)),
                )
            case _:
                if served.engine.scheduler.has_requests():
                    served.engine.step()
    served.engine.drain()
    assert not served.retirement._live and not served.retirement._doomed
    assert not served.in_sight(gone)
    for number in gone:
        assert served.computed(number) >= tokens(number) - len(SYSTEM)
    served.check_pool()
