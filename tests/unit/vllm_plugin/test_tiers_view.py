"""The tree as it is shown, of vLLM's real scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mygo.tree.keys import root_key, segment_key
from mygo.types import PUBLIC, DomainTag, Tier
from mygo.vllm_plugin.settings import TierSettings, engine_arguments
from mygo.vllm_plugin.tiers.view import CacheView

SYSTEM, FIRST, SECOND, QUESTION = [1] * 8, [10, 11] * 6, [20, 21] * 4, [30, 31, 32]
TAGS = {10: "a" * 32, 20: "b" * 32}


def _ask(engine: Any, name: str, *segments: list[int]) -> None:
    key, ids, spans = root_key(model="m", kv_dtype="bf16"), [], []
    for segment in segments:
        key = segment_key(key, PUBLIC, segment)
        ids += segment
        spans.append((key, len(ids), "salt", TAGS.get(segment[0], "")))
    engine.add(name, ids, spans=spans, answer_domain=DomainTag("t"))
    engine.drain()


def _view(engine: Any, top: int) -> CacheView:
    connector = engine.connector
    return connector._tiers.view(top, connector._ledger.describe)


def test_view_shows_the_most_valuable_nodes_and_their_way_there(engine_factory: Callable[..., Any]) -> None:
    for policy in ("vllm", "lru"):
        engine = engine_factory(
            **engine_arguments("/nobody-listens", tiers=TierSettings(device_policy=policy))
        )
        _ask(engine, "1", SYSTEM, FIRST, QUESTION)
        _ask(engine, "2", SYSTEM, FIRST, SECOND, QUESTION)
        _ask(engine, "3", SYSTEM, SECOND, QUESTION)
        view = _view(engine, 10)
        shown = {(node.start_tokens, node.tag): node for node in view.nodes}
        assert view.total_nodes == len(view.nodes) == len(shown)
        first = shown[8, "a" * 32]
        parent = view.nodes[first.parent if first.parent is not None else -1]
        assert (parent.start_tokens, parent.tokens, parent.tag) == (0, 8, "")
        assert (first.tokens, first.live, first.salt) == (12, 0, "salt")
        assert first.frequency == pytest.approx(2.0, rel=0.01)
        assert first.held_tokens == {Tier.DEVICE: 12}
        assert shown[20, "b" * 32].parent == first.number
        assert parent.frequency == pytest.approx(3.0, rel=0.01)
        numbers = [node.number for node in view.nodes]
        assert numbers == list(range(len(numbers)))
        assert all(node.parent is None or node.parent < node.number for node in view.nodes)
        best = max(view.nodes, key=lambda node: node.value_s)
        few = _view(engine, 1)
        only = max(few.nodes, key=lambda node: node.start_tokens)
        assert only.value_s == pytest.approx(best.value_s)
        ends = {node.start_tokens + node.tokens for node in few.nodes} | {0}
        assert all(node.start_tokens in ends for node in few.nodes), "nothing is missing on the way"


def test_view_leaves_out_what_no_tier_holds(engine_factory: Callable[..., Any]) -> None:
    engine = engine_factory(socket_path="/nobody-listens")
    _ask(engine, "1", SYSTEM, FIRST, QUESTION)
    assert engine.scheduler.reset_prefix_cache()
    assert _view(engine, 10).nodes == ()
