"""The engine's end of the socket: a thread that tells the worker process what changed, and one that listens.

The engine never waits for them. It leaves its news in a ResidencyLog, which coalesces what the thread
has not sent yet; a lost connection, or a reader that is too slow, costs a snapshot and nothing else. It takes
the worker's commands when it has time for them, between two steps.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from mygo.types import ResidencyEvent, WorkerLoad
from mygo.vllm_plugin.residency import ResidencyLog
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.wire import (
    HEADER,
    MAX_FRAME_BYTES,
    Batch,
    Command,
    Done,
    Hello,
    Message,
    decode_command,
    frame,
)

logger = logging.getLogger(__name__)

MIN_INTERVAL_S = 0.05
RECONNECT_S = 0.5
SEND_TIMEOUT_S = 10.0
# How often a thread with nothing to do looks whether it should end.
IDLE_CHECK_S = 1.0


class ReportSink(Protocol):
    """Where the connector's news goes: the socket, or whoever runs the scheduler in its own process."""

    def publish(self, events: Iterable[ResidencyEvent], load: WorkerLoad) -> None:
        """Called by the engine, which waits for it. The last load counts, events add up."""
        ...

    def close(self) -> None:
        """The engine ends."""
        ...


class Reporter:
    """Connects to the Unix socket at ``path``, and again whenever the connection is lost."""

    def __init__(self, path: str, hello: Hello, counters: Callable[[], TierCounters]) -> None:
        """``counters`` is asked for the tiers' figures whenever something is sent, in the thread."""
        self._path = path
        self._hello = hello
        self._counters = counters
        self._log = ResidencyLog()
        self._load = WorkerLoad()
        self._news = False
        self._commands: deque[Command] = deque()
        self._answers: list[Done] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._run, name="mygo-reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def publish(self, events: Iterable[ResidencyEvent], load: WorkerLoad) -> None:
        """Called by the engine; returns at once. The last load counts, events add up."""
        events = tuple(events)
        with self._changed:
            if not events and load == self._load:
                return
            self._log.record(events)
            self._load = load
            self._news = True
            self._changed.notify()

    @property
    def has_commands(self) -> bool:
        return bool(self._commands)

    def take_commands(self) -> list[Command]:
        """What the worker asked for since the last call; the engine owes an answer to each."""
        taken: list[Command] = []
        while self._commands:
            taken.append(self._commands.popleft())
        return taken

    def answer(self, done: Done) -> None:
        """Called by the engine; returns at once."""
        with self._changed:
            self._answers.append(done)
            self._changed.notify()

    def close(self) -> None:
        """Stop reporting; what was not sent is not sent any more."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        reachable = True
        while not self._closing.is_set():
            self._end_if_orphaned()
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.settimeout(SEND_TIMEOUT_S)
                    connection.connect(self._path)
                    reachable = True
                    self._serve(connection)
            except OSError as error:
                if reachable:
                    logger.warning("no report reader at %s (%s); will go on trying", self._path, error)
                reachable = False
            self._closing.wait(RECONNECT_S)

    def _serve(self, connection: socket.socket) -> None:
        """Send until closing. Raises OSError when the peer is gone or does not read."""
        with self._changed:
            self._log.tell_all()
            self._news = True
            self._answers.clear()
        connection.sendall(frame(self._hello))
        lost = threading.Event()
        listener = threading.Thread(target=self._listen, args=(connection, lost), daemon=True)
        listener.start()
        try:
            while not self._closing.is_set():
                messages = self._next_messages(lost)
                self._end_if_orphaned()
                if lost.is_set():
                    raise ConnectionResetError("the reader closed the connection")
                for message in messages:
                    connection.sendall(frame(message))
                if messages:
                    self._closing.wait(MIN_INTERVAL_S)
        finally:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            listener.join()

    def _listen(self, connection: socket.socket, lost: threading.Event) -> None:
        """Take in commands until the connection ends, in whatever way; then set ``lost``."""
        try:
            while True:
                (length,) = HEADER.unpack(_receive(connection, HEADER.size))
                if length > MAX_FRAME_BYTES:
                    raise ValueError(f"a frame of {length} bytes is over {MAX_FRAME_BYTES}")
                self._commands.append(decode_command(_receive(connection, length)))
        except OSError:
            pass  # the sending thread connects anew, and says so if it cannot
        except ValueError as error:
            logger.error("a command cannot be read, so the connection is dropped: %s", error)
        with self._changed:
            lost.set()
            self._changed.notify()

    def _end_if_orphaned(self) -> None:
        """End the engine process if the worker that started it was killed.

        vLLM does not notice: the engine would hold its memory, on a GPU too, until somebody looked.
        """
        if os.getppid() != self._parent:
            logger.error("the worker process is gone: the engine ends itself")
            os.kill(os.getpid(), signal.SIGKILL)

    def _next_messages(self, lost: threading.Event) -> list[Message]:
        """What is to be sent; waits for it, but not for ever. News go before answers: whoever has an answer
        has heard of what the command changed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._news or self._answers or lost.is_set() or self._closing.is_set(), IDLE_CHECK_S
            )
            answers, self._answers = self._answers, []
            if not self._news:
                return [*answers]
            self._news = False
            events, snapshot = self._log.take()
            load = self._load
        return [Batch(load, events, snapshot, self._counters()), *answers]


def _receive(connection: socket.socket, length: int) -> bytes:
    """So many bytes, however long they take to begin. Raises OSError when the connection ends."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    received = bytearray()
    while len(received) < length:
        poll.poll()  # the socket's own timeout is for the sending thread
        piece = connection.recv(length - len(received))
        if not piece:
            raise ConnectionResetError("the reader closed the connection")
        received += piece
    return bytes(received)
