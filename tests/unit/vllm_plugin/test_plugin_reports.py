"""From the engine's thread over a real socket to the worker's reports."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mygo.errors import ConfigError, Unavailable
from mygo.types import ResidencyEvent, SegmentKey, Tier, WorkerId, WorkerLoad, WorkerReport
from mygo.vllm_plugin import receiver as receiver_module
from mygo.vllm_plugin import reporter as reporter_module
from mygo.vllm_plugin.receiver import ReportReceiver
from mygo.vllm_plugin.reporter import Reporter
from mygo.vllm_plugin.residency import ResidencyLog
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.tiers.view import CacheView
from mygo.vllm_plugin.wire import HEADER, MAX_FRAME_BYTES, Done, Hello, Look, Purge

WORKER = WorkerId("w")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "RECONNECT_S", 0.02)
    monkeypatch.setattr(reporter_module, "IDLE_CHECK_S", 0.02)


def _hello(epoch: str = "e1") -> Hello:
    return Hello(epoch, block_tokens=32, device_tokens=3200, pid=1, data_parallel_rank=0)


def _event(name: int, prefix_tokens: int) -> ResidencyEvent:
    return ResidencyEvent(SegmentKey(f"{name:032x}"), None, 0, 64, prefix_tokens, prefix_tokens == 64)


@asynccontextmanager
async def _receiver(path: Path) -> AsyncIterator[ReportReceiver]:
    receiver = ReportReceiver(path, WORKER)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.close()


class _View:
    """What a reader of reports believes, and that it was never left guessing."""

    def __init__(self) -> None:
        self.held: dict[SegmentKey, ResidencyEvent] = {}
        self.epoch = ""
        self.sequence = -1

    def apply(self, report: WorkerReport) -> None:
        if report.epoch != self.epoch:
            self.epoch, self.sequence = report.epoch, -1
        assert report.sequence == self.sequence + 1
        assert report.snapshot or report.sequence > 0, "an epoch begins with a snapshot"
        self.sequence = report.sequence
        if report.snapshot:
            self.held.clear()
        for event in report.events:
            self.held.pop(event.key, None)
            if event.prefix_tokens:
                self.held[event.key] = event

    async def until(self, receiver: ReportReceiver, expected: set[int]) -> None:
        keys = {SegmentKey(f"{name:032x}") for name in expected}
        while self.held.keys() != keys:
            self.apply(await receiver.next_report())


def _run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_receiver_gets_everything_when_events_come_before_and_after_the_connection(tmp_path: Path) -> None:
    async def test() -> None:
        reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
        reporter.start()
        reporter.publish([_event(1, 64)], WorkerLoad(waiting=1))
        await asyncio.sleep(0.05)  # nobody listens yet: it goes on trying
        async with _receiver(tmp_path / "s") as receiver:
            assert await receiver.hello() == _hello()
            view = _View()
            await view.until(receiver, {1})
            load = WorkerLoad(waiting=2, running=3, queued_tokens=4, free_tokens=5)
            reporter.publish([_event(2, 32), _event(1, 0)], load)
            report = await receiver.next_report()
            assert report == WorkerReport(WORKER, "e1", 1, (_event(2, 32), _event(1, 0)), load)
            view.apply(report)
            snapshot = await receiver.snapshot()
            assert (snapshot.sequence, snapshot.snapshot, snapshot.events) == (2, True, (_event(2, 32),))
        reporter.close()

    _run(test())


def test_news_travels_at_once_when_the_engine_was_idle_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking whether an idle peer is still there once waited for the socket's whole timeout, so that
    after a second without news nothing was reported for ten."""
    monkeypatch.setattr(reporter_module, "SEND_TIMEOUT_S", 3600.0)

    async def test() -> None:
        reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
        async with _receiver(tmp_path / "s") as receiver:
            reporter.start()
            await receiver.snapshot()
            await asyncio.sleep(0.2)  # ten looks
            reporter.publish([_event(1, 64)], WorkerLoad())
            assert (await receiver.next_report()).events == (_event(1, 64),)
        reporter.close()

    _run(test())


def test_receiver_reports_the_load_when_nothing_else_happened_for_a_heartbeat(tmp_path: Path) -> None:
    async def test() -> None:
        async with _receiver(tmp_path / "s") as receiver:
            reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
            reporter.start()
            first = await receiver.next_report()
            beat = await receiver.next_report(heartbeat_s=0.01)
            assert (first.sequence, first.snapshot) == (0, True)
            assert (beat.sequence, beat.snapshot, beat.events) == (1, False, ())
            reporter.close()

    _run(test())


def test_receiver_forgets_the_old_engine_when_one_with_a_new_epoch_connects(tmp_path: Path) -> None:
    async def test() -> None:
        async with _receiver(tmp_path / "s") as receiver:
            view = _View()
            for epoch, name in (("e1", 1), ("e2", 2)):
                reporter = Reporter(str(tmp_path / "s"), _hello(epoch), TierCounters)
                reporter.publish([_event(name, 64)], WorkerLoad())
                reporter.start()
                await view.until(receiver, {name})
                assert view.epoch == epoch == (await receiver.hello()).epoch
                reporter.close()

    _run(test())


def test_reporter_sends_a_snapshot_when_the_receiver_comes_back(tmp_path: Path) -> None:
    async def test() -> None:
        reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
        reporter.start()
        reporter.publish([_event(1, 64), _event(2, 64)], WorkerLoad())
        async with _receiver(tmp_path / "s") as receiver:
            await _View().until(receiver, {1, 2})
        reporter.publish([_event(1, 0)], WorkerLoad())
        async with _receiver(tmp_path / "s") as receiver:
            await _View().until(receiver, {2})
        reporter.close()

    _run(test())


def test_publish_returns_at_once_and_memory_stays_bounded_when_the_peer_never_reads(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
    reporter.start()
    for name in range(30_000):
        reporter.publish([_event(name, 64)], WorkerLoad(waiting=name))
        reporter.publish([_event(name, 0)], WorkerLoad(waiting=name))
    assert len(reporter._log._held) == 0
    assert len(reporter._log._changed) <= 1025
    listener.close()
    reporter.close()


def test_receiver_survives_when_somebody_sends_rubbish(tmp_path: Path) -> None:
    async def test() -> None:
        async with _receiver(tmp_path / "s") as receiver:
            for rubbish in (b"\x00\x00\x00\x03abc", HEADER.pack(MAX_FRAME_BYTES + 1), b"\x00"):
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
                writer.write(rubbish)
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
            reporter.publish([_event(1, 64)], WorkerLoad())
            reporter.start()
            await _View().until(receiver, {1})
            reporter.close()

    _run(test())


def test_receiver_lets_only_this_user_connect_when_it_listens(tmp_path: Path) -> None:
    async def test() -> None:
        async with _receiver(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        assert not (tmp_path / "s").exists()

    _run(test())


def test_receiver_says_what_to_do_when_the_path_is_too_long(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(ConfigError, match="below 108 bytes"):
            await ReportReceiver(tmp_path / ("s" * 120), WORKER).start()

    _run(test())


def test_log_tells_all_that_is_held_when_the_listener_fell_far_behind() -> None:
    log = ResidencyLog()
    log.take()
    log.record([_event(-1 % 2**64, 64)])
    for name in range(3000):
        log.record([_event(name, 64), _event(name, 0)])
    assert log.take() == ((_event(-1 % 2**64, 64),), True)
    assert log.take() == ((), False)


def test_commands_are_answered_after_the_news_that_they_make(tmp_path: Path) -> None:
    async def test() -> None:
        reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
        reporter.start()
        woken = 0

        async def engine() -> None:
            """A sleeping engine looks at its commands when it is woken, perhaps before they are there."""
            nonlocal woken
            woken += 1
            for command in reporter.take_commands():
                match command:
                    case Purge():
                        reporter.publish([_event(1, 0)], WorkerLoad())
                        told.append(command.tags)
                        reporter.answer(Done(command.number))
                    case Look():
                        view = CacheView((), command.top, {Tier.HOST: 1}, {Tier.HOST: 2})
                        reporter.answer(Done(command.number, view))

        told: list[tuple[str, ...]] = []
        async with _receiver(tmp_path / "s") as receiver:
            reporter.publish([_event(1, 64)], WorkerLoad())
            view = _View()
            await view.until(receiver, {1})
            await receiver.purge(("a", "b"), engine)
            assert told == [("a", "b")] and woken
            await asyncio.wait_for(view.until(receiver, set()), 1.0)
            looked, _ = await asyncio.gather(receiver.look(7, engine), receiver.purge((), engine))
            assert (looked.total_nodes, looked.held_tokens) == (7, {Tier.HOST: 1})
            assert not receiver._asked
        reporter.close()

    _run(test())


def test_command_fails_when_the_engine_is_away_or_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep_on() -> None:
        pass

    async def test() -> None:
        async with _receiver(tmp_path / "s") as receiver:
            with pytest.raises(Unavailable, match="not connected"):
                await receiver.purge((), sleep_on)
            reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
            reporter.start()
            await receiver.snapshot()
            monkeypatch.setattr(receiver_module, "ANSWER_S", 0.2)
            with pytest.raises(Unavailable, match="did not answer"):
                await receiver.purge((), sleep_on)
            monkeypatch.setattr(receiver_module, "ANSWER_S", 20.0)
            asked = asyncio.create_task(receiver.purge((), sleep_on))
            await asyncio.sleep(0.05)
            reporter.close()
            with pytest.raises(Unavailable, match="closed"):
                await asked

    _run(test())


def test_reporter_connects_anew_when_it_is_sent_rubbish(tmp_path: Path) -> None:
    async def test() -> None:
        reporter = Reporter(str(tmp_path / "s"), _hello(), TierCounters)
        reporter.start()
        async with _receiver(tmp_path / "s") as receiver:
            view = _View()
            view.apply(await receiver.snapshot())
            assert receiver._connection is not None
            lost = receiver._connection
            lost.write(HEADER.pack(4) + b"junk")
            while receiver._connection in (lost, None):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            reporter.publish([_event(1, 64)], WorkerLoad())
            await view.until(receiver, {1})
        reporter.close()

    _run(test())
