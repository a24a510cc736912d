"""The worker process's end of the socket: an engine's reports, numbered. Imports no vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from mygo.blend.verdicts import Divergence
from mygo.errors import ConfigError, Unavailable
from mygo.types import WorkerId, WorkerLoad, WorkerReport
from mygo.vllm_plugin.chunks.quality_view import QualityView
from mygo.vllm_plugin.residency import ResidencyLog
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.tiers.view import CacheView
from mygo.vllm_plugin.wire import (
    HEADER,
    MAX_FRAME_BYTES,
    Assess,
    Batch,
    Command,
    Done,
    Hello,
    Look,
    Message,
    Observe,
    Purge,
    decode,
    frame,
)

logger = logging.getLogger(__name__)

ANSWER_S = 30.0
"""Longest wait for an engine to carry out a command: it does so between two steps."""
WAKE_INTERVAL_S = 0.1
Wake = Callable[[], Awaitable[None]]


class ReportReceiver:
    """Listens for one engine at ``path`` and hands out its reports as ``worker``'s.

    Sequences are dense per epoch over ``next_report`` and ``snapshot`` together. When the engine
    comes back with a new epoch, they begin at 0 again, with a snapshot. Reports that were not
    asked for coalesce; nothing queues up. One task at a time may ask.
    """

    def __init__(self, path: Path, worker: WorkerId) -> None:
        self._path = path
        self._worker = worker
        self._server: asyncio.Server | None = None
        self._connection: asyncio.StreamWriter | None = None
        self._hello: Hello | None = None
        self._introduced = asyncio.Event()
        self._news = asyncio.Event()
        self._log = ResidencyLog()
        self._load = WorkerLoad()
        self._sequence = 0
        self.received = 0
        """Messages so far; an engine that computes sends some."""
        self.counters = TierCounters()
        """As last told."""
        self._asked: dict[int, asyncio.Future[Done]] = {}
        self._commands = 0

    async def start(self) -> None:
        """Listen; only this user can connect. Raises ConfigError if the path cannot be used."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            # before listening: until then nobody can connect
            self._path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._receive, sock=listener)
        except OSError as error:
            listener.close()
            raise ConfigError(
                f"{self._path}: cannot listen for the engine's reports ({error}); "
                "give a path below 108 bytes in a directory that can be written"
            ) from error

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def hello(self) -> Hello:
        """What the engine said of itself; waits until it has connected once."""
        await self._introduced.wait()
        assert self._hello is not None
        return self._hello

    @property
    def load(self) -> WorkerLoad:
        """As last told."""
        return self._load

    async def next_report(self, heartbeat_s: float | None = None) -> WorkerReport:
        """Wait for news; after ``heartbeat_s`` without any, report the load alone.

        Nothing is reported before the engine has connected once.
        """
        await self._introduced.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(heartbeat_s):
                await self._news.wait()
        return self._report()

    async def snapshot(self) -> WorkerReport:
        """All that the engine holds, as far as it has told."""
        await self._introduced.wait()
        self._log.tell_all()
        return self._report()

    async def look(self, top: int, wake: Wake) -> CacheView:
        """The ``top`` most valuable nodes of the engine's knowledge tree; raises as ``purge`` does."""
        done = await self._ask(lambda number: Look(number, top), wake)
        assert done.view is not None
        return done.view

    async def purge(self, tags: tuple[str, ...], wake: Wake) -> None:
        """Let the engine forget passages; when this returns, nobody can hit their KV any more.

        ``wake`` makes an engine that sleeps for want of requests look at its commands. Raises Unavailable if
        the engine is away or does not answer in time; then it may or may not have done so.
        """
        await self._ask(lambda number: Purge(number, tags), wake)

    async def observe(self, ticket: int, divergence: Divergence, wake: Wake) -> None:
        """Tell the quality guard what a comparison has found; raises as ``purge`` does."""
        await self._ask(lambda number: Observe(number, ticket, divergence), wake)

    async def assess(self, wake: Wake, *, reset: bool = False) -> QualityView | None:
        """What the quality guard knows; with ``reset``, after it has forgotten everything. None: the engine
        has none. Raises as ``purge`` does."""
        return (await self._ask(lambda number: Assess(number, reset), wake)).quality

    async def _ask(self, make: Callable[[int], Command], wake: Wake) -> Done:
        self._commands += 1
        number = self._commands
        if self._connection is None:
            raise Unavailable("the engine is not connected; try again shortly")
        answer: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                self._connection.write(frame(make(number)))
                while not answer.done():
                    # again and again: the first may come before the command, over another way
                    await wake()
                    await asyncio.wait([answer], timeout=WAKE_INTERVAL_S)
            return answer.result()
        except TimeoutError as error:
            raise Unavailable(f"the engine did not answer in {ANSWER_S:g} s; try again shortly") from error
        finally:
            del self._asked[number]

    def _report(self) -> WorkerReport:
        assert self._hello is not None
        self._news.clear()
        events, snapshot = self._log.take()
        report = WorkerReport(
            self._worker, self._hello.epoch, self._sequence, events, self._load, snapshot=snapshot
        )
        self._sequence += 1
        return report

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A new connection means that the engine gave the old one up.
        if self._connection is not None:
            self._connection.close()
            self._give_up_answers()
        self._connection = writer
        try:
            while True:
                (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
                if length > MAX_FRAME_BYTES:
                    raise ValueError(f"a frame of {length} bytes is over {MAX_FRAME_BYTES}")
                message = decode(await reader.readexactly(length))
                if self._connection is not writer:
                    return
                self._apply(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            logger.info("the engine closed its report connection")
        except ValueError as error:
            logger.error("a report cannot be read, so the connection is dropped: %s", error)
        finally:
            writer.close()
            if self._connection is writer:
                self._connection = None
                self._give_up_answers()

    def _give_up_answers(self) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Unavailable("the engine closed its connection; try again shortly"))

    def _apply(self, message: Message) -> None:
        self.received += 1
        match message:
            case Hello():
                if self._hello is None or self._hello.epoch != message.epoch:
                    self._log = ResidencyLog()
                    self._load = WorkerLoad()
                    self._sequence = 0
                self._hello = message
            case Batch():
                self._load = message.load
                self.counters = message.counters
                if message.snapshot:
                    self._log.replace(message.events)
                else:
                    self._log.record(message.events)
                # Only now: a snapshot that is asked for at the first hello shall not be empty.
                self._introduced.set()
            case Done():
                answer = self._asked.get(message.number)
                if answer is not None and not answer.done():
                    answer.set_result(message)
                return
        self._news.set()
