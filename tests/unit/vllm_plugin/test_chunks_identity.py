"""What lies in a block is what its hash and its names say, whatever a request becomes meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chunk_served import CHUNKS, Served, name_of

from mygo.vllm_plugin.settings import engine_arguments

SYSTEM = [3] * 8  # documents end where blocks do
QUESTION = [4] * 3
LONG_QUESTION = [5] * 12
DOCUMENT_BLOCKS = (8 + 2 * 16) // 4
"""Of the system prompt and two documents, in blocks of 4."""


@pytest.fixture
def make(
    engine_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Served]:
    def build(system: Sequence[int] = SYSTEM, **overrides: Any) -> Served:
        arguments = engine_arguments(str(tmp_path / "nobody-listens"), chunks=replace(CHUNKS, guard=False))
        return Served(engine_factory(**arguments, **overrides), monkeypatch, system)

    return build


Make = Callable[..., Served]


def _drain_noting_blocks(served: Served) -> dict[str, list[int]]:
    """The device blocks that each request had."""
    scheduler = served.engine.scheduler
    blocks: dict[str, list[int]] = {}
    while scheduler.has_requests():
        served.engine.step()
        for request_id in scheduler.requests:
            if held := scheduler.kv_cache_manager.get_block_ids(request_id)[0]:
                blocks[request_id] = held
    return blocks


def _resident(served: Served, request: Any) -> list[bool]:
    """By block of the system prompt and the documents."""
    cache = served.engine.connector._cache
    return [cache.is_resident(each) for each in cache.hashes(request)[:DOCUMENT_BLOCKS]]


def _purge(served: Served, name: str) -> None:
    """As the connector does it."""
    connector = served.engine.connector
    connector._retirement.purge([name_of(name)])
    connector._retirement.doom(connector._chunks.purge([name_of(name)]))


def test_request_that_becomes_exact_while_it_waits_takes_no_approximate_block(make: Make) -> None:
    served = make(max_running=1)
    for _ in range(2):  # behind the first there is one more way to reuse, which the second takes
        assert served.ask("ba", QUESTION)["approximate"]
    exact = served.add("exact", "ba", QUESTION, reuse="exact", max_tokens=3)
    waits = served.add("waits", "ba", LONG_QUESTION, max_tokens=4)
    assert exact.block_hashes[:DOCUMENT_BLOCKS] != waits.block_hashes[:DOCUMENT_BLOCKS]
    blocks = _drain_noting_blocks(served)
    # all documents are there exactly when its turn comes
    assert not served.told["waits"]["approximate"]
    assert exact.block_hashes[:DOCUMENT_BLOCKS] == waits.block_hashes[:DOCUMENT_BLOCKS]
    assert blocks["exact"][:DOCUMENT_BLOCKS] == blocks["waits"][:DOCUMENT_BLOCKS]


def test_purge_finds_exact_blocks_of_a_path_that_was_first_seen_blended(make: Make) -> None:
    served = make()
    blended = served.add("blended", "ba", QUESTION)
    served.engine.drain()
    exact = served.add("exact", "ba", QUESTION, reuse="exact")
    served.engine.drain()
    assert served.told["blended"]["approximate"]
    assert all(_resident(served, exact)) and all(_resident(served, blended))
    _purge(served, "b")
    assert _resident(served, exact) == [True, True] + [False] * (DOCUMENT_BLOCKS - 2)
    assert not any(_resident(served, blended)[2:])


def test_purge_finds_blocks_of_a_request_that_became_exact_when_it_was_preempted(make: Make) -> None:
    served = make()
    request = served.add("r", "ba", QUESTION, max_tokens=6)
    served.engine.step()
    connector, scheduler = served.engine.connector, served.engine.scheduler
    assert connector._chunks._live["r"].tags
    scheduler.running.remove(request)
    scheduler._preempt_request(request, time.monotonic())
    connector._chunks._holdings.forget()
    for variant in served.held("b"):
        connector._chunks._holdings.purge([variant.document])
    served.engine.drain()
    assert _resident(served, request)[-1]
    connector._ledger.check()
    _purge(served, "b")
    assert not any(_resident(served, request)[2:])


def test_purge_finds_blends_that_reuse_what_was_computed_in_sight_of_a_passage(make: Make) -> None:
    served = make()  # b was kept behind a
    over = served.add("over", "bc", QUESTION)
    served.engine.drain()
    running = served.add("running", "bc", LONG_QUESTION, max_tokens=8)
    served.engine.step()
    assert served.told["over"]["approximate"] and _resident(served, over)[-1]
    _purge(served, "a")
    assert not any(_resident(served, over)[2:])
    served.engine.drain()
    assert not any(_resident(served, running)[2:])


def test_rest_of_a_block_is_computed_rather_than_approximated(make: Make) -> None:
    served = make(system=[3] * 5)  # the last token of the third document is the first of a block
    served.ask("abc", [9] * 2, reuse="exact")
    assert served.held("c")
    told = served.ask("abc", [8] * 6)
    assert not told["approximate"] and told["loaded_tokens"] == 0
