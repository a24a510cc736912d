"""Chunk reuse in the emulated engine: the plugin's own decisions, and what they cost in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from tier_engines import BLOCK, H100, drain

from mygo.emulation.engine import EmulatedCore
from mygo.emulation.settings import EngineSettings
from mygo.tree.keys import passage_tag, root_key, segment_key
from mygo.types import (
    PUBLIC,
    ChunkUse,
    ContentHash,
    GenerateRequest,
    RequestId,
    Reuse,
    Sampling,
    SegmentSpan,
    Tier,
    WorkerId,
)
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings

DOCUMENT_TOKENS = 2048
QUESTION_TOKENS = 64


def core(host_documents: float = 100, disk_documents: float = 0, *, layerwise: bool = True) -> EmulatedCore:
    document_bytes = DOCUMENT_TOKENS * H100.kv_bytes_per_token
    chunks = ChunkSettings(
        host_bytes=int(host_documents * document_bytes),
        disk_bytes=int(disk_documents * document_bytes),
        layerwise=layerwise,
    )
    return EmulatedCore(EngineSettings(65_536, BLOCK, chunks=chunks), H100, WorkerId("w"))


def request(name: str, documents: Sequence[str], reuse: Reuse = Reuse.BLEND) -> GenerateRequest:
    key, token_ids, spans = root_key(model="m", kv_dtype="none"), [], []
    question = f"question {name}"
    for segment in ("system", *documents, question):
        tokens = QUESTION_TOKENS if segment in ("system", question) else DOCUMENT_TOKENS
        ids = random.Random(segment).choices(range(32_000), k=tokens)
        key = segment_key(key, PUBLIC, ids)
        token_ids += ids
        tag = passage_tag(b"", PUBLIC, ContentHash(segment)) if segment in documents else ""
        spans.append(SegmentSpan(key, len(token_ids), "salt", tag))
    return GenerateRequest(RequestId(name), token_ids, tuple(spans), Sampling(max_tokens=2), reuse=reuse)


def serve(engine: EmulatedCore, asked: GenerateRequest) -> tuple[ChunkUse, int, float]:
    """What came from chunks, tokens computed, and seconds to the first token."""
    engine.add(asked, 10.0 * int(asked.request_id.split()[-1]))
    outcomes = drain(engine)
    first = next(each for each in outcomes if asked.request_id in each.prefills)
    stats = first.prefills[asked.request_id]
    computed_tokens = sum(each.computed_tokens for each in outcomes)
    assert computed_tokens == len(asked.token_ids) - sum(stats.cached_tokens.values())
    return outcomes[-1].chunks[asked.request_id], computed_tokens, stats.queue_s + stats.prefill_s


def test_moved_documents_are_loaded_but_for_their_repair() -> None:
    engine = core()
    _, _, cold_s = serve(engine, request("1", "abcd"))
    use, computed_tokens, took_s = serve(engine, request("2", "dcba"))
    assert use.approximate and use.loaded_tokens + use.repaired_tokens == 3 * DOCUMENT_TOKENS
    # a was born first, where nobody else can use it
    assert computed_tokens == DOCUMENT_TOKENS + use.repaired_tokens + QUESTION_TOKENS
    load_s = use.loaded_tokens * H100.host_load_s_per_token
    assert load_s < took_s < 0.6 * cold_s


def test_loads_hide_behind_the_computation_but_for_the_first_layers_part() -> None:
    took_s: dict[bool, float] = {}
    for layerwise in (True, False):
        engine = core(layerwise=layerwise)
        serve(engine, request("1", "abcd"))
        use, computed_tokens, took_s[layerwise] = serve(engine, request("2", "dcba"))
        # repaired tokens travel with the others
        load_s = (use.loaded_tokens + use.repaired_tokens) * H100.host_load_s_per_token
        assert computed_tokens > 1_000, "computing takes longer than loading"
    hidden_s = load_s * (1 - 1 / H100.layers)
    assert took_s[False] - took_s[True] == pytest.approx(hidden_s, rel=1e-6)


def test_document_that_is_computed_among_reused_ones_is_kept() -> None:
    engine = core()
    serve(engine, request("1", "abcd"))
    serve(engine, request("2", "dcbx"))
    use, _, _ = serve(engine, request("3", "bxcd"))
    assert use.loaded_tokens + use.repaired_tokens == 4 * DOCUMENT_TOKENS


def test_nothing_is_loaded_when_the_request_wants_exact_answers() -> None:
    engine = core()
    serve(engine, request("1", "abcd"))
    use, computed_tokens, _ = serve(engine, request("2", "dcba", Reuse.EXACT))
    assert use == ChunkUse(0, 0, approximate=False)
    assert computed_tokens == 4 * DOCUMENT_TOKENS + QUESTION_TOKENS


def test_chunks_come_from_disk_when_memory_gave_them_up() -> None:
    engine = core(host_documents=2.5, disk_documents=100)
    for number in range(4):
        serve(engine, request(f"fill {number}", [f"{number}{each}" for each in "abcd"]))
    use, _, took_s = serve(engine, request("again 9", ["0d", "0c", "0b", "0a"]))
    assert use.loaded_tokens + use.repaired_tokens == 3 * DOCUMENT_TOKENS
    assert took_s > use.loaded_tokens * H100.disk_load_s_per_token


def test_documents_are_computed_when_links_are_slower_than_computing() -> None:
    profile = replace(H100, host_load_s_per_token=1e-3)
    engine = EmulatedCore(
        EngineSettings(65_536, BLOCK, chunks=ChunkSettings(host_bytes=2**36)), profile, WorkerId("w")
    )
    serve(engine, request("1", "abcd"))
    use, _, _ = serve(engine, request("2", "dcba"))
    assert use.loaded_tokens, "nobody has measured the link yet"
    for number in range(3, 30):  # until it is known what computing costs
        serve(
            engine, request(str(number), [f"{number} {each}" for each in range(1 + number % 4)], Reuse.EXACT)
        )
    use, _, _ = serve(engine, request("30", "bdca"))
    assert use.loaded_tokens == 0


def test_waiting_request_is_stored_as_what_it_becomes() -> None:
    """It came when all its documents were held, and found them gone at its turn: then it is exact, and so are
    the names under which slower tiers keep it."""
    document_bytes = DOCUMENT_TOKENS * H100.kv_bytes_per_token
    settings = EngineSettings(
        65_536,
        BLOCK,
        max_running=1,
        chunks=ChunkSettings(host_bytes=100 * document_bytes),
        tiers=TierSettings(host_bytes=100 * document_bytes),
    )
    engine = EmulatedCore(settings, H100, WorkerId("w"))
    serve(engine, request("1", "abcd"))
    connector = engine._scheduler._scheduler.connector
    engine.add(replace(request("2", "wxyz"), sampling=Sampling(max_tokens=50)), 20.0)
    engine.add(request("3", "dcba"), 20.0)
    _advance(engine, lambda: "3" in connector._chunks._live)
    waiting = connector._chunks._live["3"]
    assert waiting.tags
    approximate = list(waiting.request.block_hashes)
    connector._chunks._holdings.purge([slot.document for slot in waiting.slots])
    drain(engine)
    exact = waiting.request.block_hashes
    last = 4 * DOCUMENT_TOKENS // BLOCK
    assert not waiting.tags and exact[last] != approximate[last]
    assert connector._tiers.tier_of(exact[last]) is Tier.HOST
    assert connector._tiers.tier_of(approximate[last]) is None


def test_request_that_is_gone_is_not_kept_out_for_ever() -> None:
    settings = EngineSettings(65_536, BLOCK, tiers=TierSettings(host_bytes=2**32))
    engine = EmulatedCore(settings, H100, WorkerId("w"))
    tiers = engine._scheduler._scheduler.connector._tiers
    engine.add(replace(request("1", "ab"), sampling=Sampling(max_tokens=50)), 0.0)
    _advance(engine, lambda: tiers._live)
    for name in ("1", "gone"):
        tiers.keep_out(name)
    _advance(engine, lambda: tiers._offload.barred._kept_out == {"1"})
    drain(engine)
    assert not tiers._offload.barred._kept_out


def _advance(engine: EmulatedCore, until: Callable[[], object]) -> None:
    for _ in range(1_000):
        if until():
            return
        engine.advance(engine.next_event_s)
    raise AssertionError("it does not come to that")
