"""The quality guard in vLLM's real scheduler: what is served and compared, and that nothing fails by it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chunk_served import CHUNKS, DOCUMENT_TOKENS, QUESTION, SYSTEM, Served, name_of

from mygo.blend.guard import Guard
from mygo.blend.selection import Method, Repair
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Decision, Divergence
from mygo.errors import BadRequest
from mygo.types import SegmentKey, SegmentSpan, WorkerId, WorkerLoad
from mygo.vllm_plugin import spans
from mygo.vllm_plugin.chunks.quality import TICKETS, Quality, alphas
from mygo.vllm_plugin.receiver import ReportReceiver
from mygo.vllm_plugin.reporter import Reporter
from mygo.vllm_plugin.settings import ChunkSettings, PluginSettings, engine_arguments
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.wire import Assess, Hello, Observe

BAD = Divergence(first_token_kl=1.0, top1_agreement=0.0, overlap=0.0)
GOOD = Divergence(first_token_kl=0.0, top1_agreement=1.0, overlap=1.0)

PROMPT_TOKENS = len(SYSTEM) + 2 * DOCUMENT_TOKENS + len(QUESTION)
EXACT = {"loaded_tokens": 0, "repaired_tokens": 0, "approximate": False, "computed": PROMPT_TOKENS}


def _blended(repaired_tokens: int, **more: Any) -> dict[str, Any]:
    """Of "ba": b was kept behind a, so all of it must be repaired at alpha 1; a is computed."""
    loaded_tokens = DOCUMENT_TOKENS - repaired_tokens
    return {
        "loaded_tokens": loaded_tokens,
        "repaired_tokens": repaired_tokens,
        "approximate": True,
        "ticket": None,
        "computed": PROMPT_TOKENS - loaded_tokens,
    } | more


@pytest.fixture
def make(
    engine_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Served]:
    def build(chunks: ChunkSettings = CHUNKS) -> Served:
        socket_path = str(tmp_path / "nobody-listens")
        return Served(engine_factory(**engine_arguments(socket_path, chunks=chunks)), monkeypatch)

    return build


@pytest.fixture
def decides(monkeypatch: pytest.MonkeyPatch) -> Callable[[Action, float], None]:
    def decide(action: Action, alpha: float = 0.25) -> None:
        monkeypatch.setattr(Guard, "decide", lambda *_: Decision(action, 3, alpha))

    return decide


Decides = Callable[..., None]
Make = Callable[..., Served]


# --- what is served ------------------------------------------------------------------------------


def test_request_is_served_exactly_when_nothing_is_proven_yet(make: Make) -> None:
    served = make()
    assert served.ask("ba") == EXACT | {"ticket": None}


def test_request_is_blended_as_configured_when_there_is_no_guard(make: Make) -> None:
    served = make(ChunkSettings(host_bytes=2**24, repair_share=0.25, floor_tokens=1, guard=False))
    assert served.ask("ba") == _blended(4)


def test_request_is_blended_at_the_decided_alpha(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.BLEND, 0.5)
    assert served.ask("ba") == _blended(8)


def test_request_that_is_checked_is_blended_and_has_a_ticket(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.CHECK, 0.5)
    assert served.ask("ba") == _blended(8, ticket=1)


def test_guard_is_not_asked_when_all_reuse_is_exact(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    served = make()
    monkeypatch.setattr(Guard, "decide", lambda *_: pytest.fail("it was asked"))
    told = served.ask("ac")  # a comes first again
    assert (told["loaded_tokens"], told["approximate"]) == (DOCUMENT_TOKENS, False)


def test_request_is_served_exactly_when_the_guard_fails(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    served = make()

    def fail(*_: Any) -> Decision:
        raise ZeroDivisionError

    monkeypatch.setattr(Guard, "decide", fail)
    assert served.ask("ba") == EXACT | {"ticket": None}


def test_document_that_is_off_is_neither_reused_nor_kept(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.BLEND)
    served.guard.documents_off.add(name_of("b"))
    assert served.ask("ba") == EXACT | {"ticket": None}
    holdings = served.engine.connector._chunks._holdings
    kept = {held.variant.birth.kind for held in holdings._catalog.held(name_of("b"), {"salt"})}
    assert kept == {"contextual"}, "it was computed at the front, and is not kept from there"


def test_blends_are_shared_until_the_guard_loses_trust(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.BLEND)
    served.ask("ba")
    shared = served.ask("ba")
    assert shared["computed"] < 5
    served.engine.connector._chunks.obey(Assess(1, reset=True))
    afresh = served.ask("ba")
    # a was kept behind b in no exact prompt, so all but the loaded tokens are computed once more
    assert afresh["computed"] > len(QUESTION) + DOCUMENT_TOKENS


def test_document_is_kept_from_a_blended_prompt_under_a_name_of_its_own(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.BLEND)
    served.ask("bc")  # b is reused, c is computed in sight of it
    (kept,) = served.held("c")
    assert kept.birth.before == (name_of("b"),) and kept.birth.blend
    assert kept.birth.seen == (name_of("a"),), "b had been computed behind a"
    served.forget_device()
    served.ask("ac", reuse="exact")
    both = {variant.birth.blend for variant in served.held("c")}
    assert len(both) == 2 and "" in both


def test_what_saw_a_blend_goes_with_what_the_blend_had_seen(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.BLEND)
    served.ask("bc")
    served.engine.connector._chunks.purge([name_of("a")])
    assert served.held("c") == []


def test_what_saw_a_blend_goes_when_the_guard_loses_trust(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.BLEND)
    served.ask("bc")
    served.engine.connector._chunks.obey(Assess(1, reset=True))
    assert served.held("c") == []
    assert served.held("b"), "it was computed exactly"


def test_nothing_is_kept_of_a_comparison(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.SHADOW)
    served.ask("bc")
    held = served.held("c")
    served.forget_device()
    served.ask("bc", ticket=1)
    assert served.held("c") == held


# --- what is compared ----------------------------------------------------------------------------


def test_shadow_is_served_exactly_and_blended_by_its_ticket_whatever_is_held_since(
    make: Make, decides: Decides
) -> None:
    """Scenario: the client's own request leaves an exact prefix and exact copies of its documents. A shadow
    that used them would compare exact with exact, and prove anything."""
    served = make()
    decides(Action.SHADOW, 0.5)
    assert served.ask("ba") == EXACT | {"ticket": 1}
    decides(Action.EXACT)
    told = served.ask("ba", ticket=1)
    assert (told["loaded_tokens"], told["repaired_tokens"], told["approximate"]) == (8, 8, True)
    assert told["ticket"] is None
    assert served.ask("ba", reuse="exact", ticket=1)["approximate"] is False


def test_ticket_is_void_when_the_prompt_is_another(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.SHADOW)
    served.ask("ba")
    served.forget_device()
    decides(Action.BLEND)
    assert served.ask("ba", [5] * 7, ticket=1)["approximate"] is False
    assert served.ask("ba", ticket=2)["approximate"] is False


def test_ticket_is_void_when_its_documents_are_gone(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.SHADOW)
    served.ask("ba")
    served.engine.connector._chunks.purge([name_of("a")])  # and b, which has seen it
    assert served.ask("ba", ticket=1)["approximate"] is False


def test_comparison_counts_once_and_is_told(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.SHADOW)
    served.ask("ba")
    chunks = served.engine.connector._chunks
    for number in range(3):
        done = chunks.obey(Observe(number, 1, GOOD))
        assert done.number == number
    (bucket,) = done.quality.buckets
    assert (bucket.bucket, bucket.state, bucket.alpha, bucket.observations) == (3, "unproven", 0.25, 1)
    assert (bucket.mean_kl, bucket.top1_agreement, bucket.overlap) == (0.0, 1.0, 1.0)
    assert (done.quality.decisions[Action.SHADOW], done.quality.observations) == (1, 1)


def test_blending_goes_off_and_says_so_when_comparisons_break_the_bound(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    served = make()
    chunks = served.engine.connector._chunks
    shadows = 0
    for number in range(500):
        served.forget_device()
        told = served.ask("ba", [5 + number % 50] * 3)
        if told["ticket"] is not None:
            shadows += 1
            chunks.obey(Observe(number, told["ticket"], BAD))
            # what the exact ones left behind is no copy from another place
            chunks._holdings.forget()
            served.ask("ab", reuse="exact")
        if "blending is off" in caplog.text or "is not reused any more" in caplog.text:
            break
    assert 0 < shadows < 50
    assert "mean KL 1.000 of at most 0.12" in caplog.text


def test_old_tickets_are_forgotten(make: Make, decides: Decides) -> None:
    served = make()
    decides(Action.CHECK)
    for _ in range(TICKETS + 5):
        served.forget_device()
        served.ask("ba")
    assert list(served.quality._tickets) == list(range(6, TICKETS + 6))


def test_reset_forgets_what_was_decided_but_not_whom_to_trust(make: Make) -> None:
    served = make()
    served.guard.documents_off.add(name_of("b"))
    served.guard.generation = 4
    done = served.engine.connector._chunks.obey(Assess(7, reset=True))
    assert (done.quality.documents_off, served.quality.generation) == ((), 5)


# --- what outlives the engine --------------------------------------------------------------------


def _quality(folder: Path, subject: str = "model", **changed: Any) -> Quality:
    settings = ChunkSettings(host_bytes=1, guard_state_path=str(folder), **changed)
    return Quality(settings, subject, random.Random(0), lambda: 0.0)


def test_guard_is_the_same_after_a_restart(tmp_path: Path) -> None:
    first = _quality(tmp_path / "new")
    assert first._guard is not None
    first._guard.documents_off.add(name_of("a"))
    first.close()
    assert _quality(tmp_path / "new").is_off(name_of("a"))


@pytest.mark.parametrize("changed", [{"subject": "other"}, {"floor_tokens": 1}, {"kl_bound": 0.2}])
def test_guard_begins_anew_when_its_evidence_is_of_something_else(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    first = _quality(tmp_path)
    assert first._guard is not None
    first._guard.documents_off.add(name_of("a"))
    first.close()
    assert not _quality(tmp_path, **changed).is_off(name_of("a"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"version": 1}'])
def test_guard_begins_unproven_and_says_so_when_its_file_is_damaged(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _quality(tmp_path).close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert _quality(tmp_path).view() is not None
    assert str(path) in caplog.text and "begins anew" in caplog.text


def test_guard_goes_on_when_its_folder_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    quality = _quality(tmp_path / "file")
    quality.close()
    assert "cannot be written" in caplog.text


# --- over the socket -----------------------------------------------------------------------------


def test_worker_tells_and_asks_the_guard_over_the_socket(
    make: Make, decides: Decides, tmp_path: Path
) -> None:
    served = make()
    decides(Action.SHADOW)
    served.ask("ba")
    chunks = served.engine.connector._chunks

    async def test() -> None:
        receiver = ReportReceiver(tmp_path / "s", WorkerId("w"))
        await receiver.start()
        reporter = Reporter(str(tmp_path / "s"), Hello("e", 4, 800, 1, 0), TierCounters)
        # first: the load is part of the first report, which the snapshot below waits for
        reporter.publish([], WorkerLoad(waiting=3))
        reporter.start()

        async def engine() -> None:
            for command in reporter.take_commands():
                reporter.answer(chunks.obey(command))

        await receiver.snapshot()
        assert receiver.load.waiting == 3
        await receiver.observe(1, Divergence(0.25, 0.5, 0.75, {DocumentTag("d"): 0.1}), engine)
        view = await receiver.assess(engine)
        assert view is not None
        (bucket,) = view.buckets
        assert (bucket.mean_kl, bucket.top1_agreement, bucket.overlap) == (0.25, 0.5, 0.75)
        assert view == served.quality.view()
        fresh = await receiver.assess(engine, reset=True)
        assert fresh is not None and fresh.buckets == ()
        reporter.close()
        await receiver.close()

    asyncio.run(asyncio.wait_for(test(), 20))


# --- settings ------------------------------------------------------------------------------------


def test_engine_without_a_worker_has_no_guard() -> None:
    extra = {"chunks": {"host_bytes": 1, "guard": True}}
    assert not PluginSettings.parse(extra).chunks.guard
    assert PluginSettings.parse(extra | {"mygo_socket": "/s"}).chunks.guard


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.15, (0.15, 0.225, 0.3, 0.45)), (0.0, (0.0,)), (0.6, (0.6, 0.9, 1.0)), (1.0, (1.0,))],
)
def test_alphas_rise_from_the_configured_share_to_all(share: float, expected: tuple[float, ...]) -> None:
    assert alphas(share) == expected


@pytest.mark.parametrize(("share", "repaired_tokens"), [(0.0, 2), (0.25, 4), (0.75, 12)])
def test_measurement_is_blended_as_it_asks_whatever_settings_and_guard_say(
    make: Make, decides: Decides, share: float, repaired_tokens: int
) -> None:
    served = make()
    decides(Action.EXACT)
    repair = {"share": share, "floor_tokens": 2, "method": "first_tokens"}
    assert served.ask("ba", repair=repair) == _blended(repaired_tokens)
    served.forget_device()
    assert served.ask("ba") == EXACT | {"ticket": None}


@pytest.mark.parametrize(
    "change", [{"share": 1.5}, {"share": 1}, {"floor_tokens": -1}, {"method": "last"}, {"method": None}]
)
def test_segment_map_is_refused_when_its_repair_is_none(change: dict[str, Any]) -> None:
    repair = {"share": 0.15, "floor_tokens": 4, "method": "first_tokens"}
    raw = {"spans": [["0" * 32, 4, "salt"]], "repair": repair}
    good = spans.parse({"mygo": raw}, 4)
    assert good is not None and good.repair == Repair(0.15, 4, Method.FIRST_TOKENS)
    with pytest.raises(BadRequest, match="is no repair"):
        spans.parse({"mygo": raw | {"repair": repair | change}}, 4)


@pytest.mark.parametrize("ticket", ["1", 1.0, True])
def test_segment_map_is_refused_when_its_ticket_is_no_number(ticket: Any) -> None:
    raw = {"spans": [["0" * 32, 4, "salt"]], "ticket": ticket}
    with pytest.raises(BadRequest, match="ticket must be a whole number"):
        spans.parse({"mygo": raw}, 4)
    good = spans.parse({"mygo": raw | {"ticket": 3}}, 4)
    assert good is not None and good.ticket == 3
    assert good.spans == (SegmentSpan(SegmentKey("0" * 32), 4, "salt"),)
