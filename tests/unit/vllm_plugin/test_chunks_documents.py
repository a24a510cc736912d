"""What a segment map says of documents, and what is refused in maps and settings."""

from __future__ import annotations

from typing import Any

import pytest

from mygo.blend.variants import BirthKind
from mygo.errors import BadRequest, ConfigError
from mygo.types import SegmentKey, SegmentSpan
from mygo.vllm_plugin import spans
from mygo.vllm_plugin.chunks import documents
from mygo.vllm_plugin.settings import CHUNK_WORKER, ChunkSettings, engine_arguments
from mygo.vllm_plugin.spans import Reuse

KEY = "0" * 32


def _spans(*parts: tuple[int, str, str]) -> list[SegmentSpan]:
    return [SegmentSpan(SegmentKey(KEY), end_tokens, salt, tag) for end_tokens, salt, tag in parts]


def test_slots_are_the_tagged_segments_with_all_domains_up_to_their_end() -> None:
    found = documents.slots(
        _spans((5, "p", ""), (9, "p", "d1"), (9, "p", "empty"), (14, "a", "d2"), (20, "ab", ""))
    )
    assert [(slot.document, slot.start_tokens, slot.end_tokens) for slot in found] == [
        ("d1", 5, 9),
        ("d2", 9, 14),
    ]
    assert [slot.domains for slot in found] == [{"p"}, {"p", "a"}]


def test_document_behind_a_private_one_may_be_read_by_all_who_may_read_it_alone() -> None:
    path = [
        SegmentSpan(SegmentKey(KEY), 5, "p", ""),
        SegmentSpan(SegmentKey(KEY), 9, "a", "d1", "a"),
        SegmentSpan(SegmentKey(KEY), 14, "ab", "d2", "b"),
        SegmentSpan(SegmentKey(KEY), 20, "ab", "d3", "p"),
    ]
    found = documents.slots(path)
    assert [slot.own_domain for slot in found] == ["a", "b", "p"]
    assert [slot.domains for slot in found] == [{"p", "a"}, {"p", "a", "ab", "b"}, {"p", "a", "ab", "b"}]


def test_leading_documents_end_where_something_else_lies_between() -> None:
    found = documents.slots(
        _spans((5, "p", ""), (9, "p", "d1"), (14, "p", "d2"), (16, "p", ""), (20, "p", "d3"), (21, "p", ""))
    )
    assert [slot.document for slot in documents.leading(found)] == ["d1", "d2"]


def test_birth_is_by_what_lies_before_unless_that_is_neutral() -> None:
    found = documents.slots(_spans((5, "p", ""), (9, "p", "d1"), (14, "p", "d2")))
    assert documents.birth([], filler=True).kind is BirthKind.FIRST
    assert documents.birth(found, filler=False).before == ("d1", "d2")
    assert documents.birth(found, filler=True).kind is BirthKind.FILLER


@pytest.mark.parametrize(("extra", "reuse"), [({}, Reuse.EXACT), ({"reuse": "blend"}, Reuse.BLEND)])
def test_request_is_exact_unless_it_asks_for_more(extra: dict[str, Any], reuse: Reuse) -> None:
    found = spans.parse({"mygo": {"spans": [[KEY, 7, "p", KEY]], **extra}}, 7)
    assert found is not None and found.reuse is reuse and not found.filler
    assert found.salt_at(7) == "p"


@pytest.mark.parametrize("extra", [{"reuse": "approximate"}, {"reuse": None}, {"filler": 1}])
def test_request_is_refused_when_it_asks_for_what_there_is_not(extra: dict[str, Any]) -> None:
    (name,) = extra
    with pytest.raises(BadRequest, match=name):
        spans.parse({"mygo": {"spans": [[KEY, 7, "p"]], **extra}}, 7)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"host_byte": 1}, "did you mean host_bytes"),
        ({"host_bytes": -1}, "0 or more"),
        ({"repair_share": 1.5}, "between 0 and 1"),
        ({"method": "random"}, "one of first_tokens, spread"),
        ({"births": "first"}, "one of contextual, filler"),
        ([], "must be a mapping"),
        ({"host_bytes": 1, "disk_path": "/kv"}, "disk_bytes"),
    ],
)
def test_settings_are_refused_when_they_cannot_be(raw: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChunkSettings.parse(raw, "chunks")


def test_engine_gets_our_worker_only_when_chunks_are_on() -> None:
    assert "worker_cls" not in engine_arguments()
    on = engine_arguments(chunks=ChunkSettings(host_bytes=1))
    assert on["worker_cls"] == CHUNK_WORKER
    assert on["kv_transfer_config"]["kv_load_failure_policy"] == "recompute"
