"""The engine's end of the socket: a thread that tells the worker process what changed.

The engine never waits for it. It leaves its news in a ResidencyLog, which coalesces what the thread
has not sent yet; a lost connection, or a reader that is too slow, costs a snapshot and nothing else.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from mygo.types import ResidencyEvent, WorkerLoad
from mygo.vllm_plugin.residency import ResidencyLog
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.wire import Batch, Hello, frame

logger = logging.getLogger(__name__)

MIN_INTERVAL_S = 0.05
RECONNECT_S = 0.5
SEND_TIMEOUT_S = 10.0
# How often an idle connection is looked at for a peer that went away.
PEER_CHECK_S = 1.0


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
        connection.sendall(frame(self._hello))
        while True:
            batch = self._next_batch()
            self._end_if_orphaned()
            if self._closing.is_set():
                return
            if batch is None:
                _check_peer(connection)
            else:
                connection.sendall(frame(batch))
                self._closing.wait(MIN_INTERVAL_S)

    def _end_if_orphaned(self) -> None:
        """End the engine process if the worker that started it was killed.

        vLLM does not notice: the engine would hold its memory, on a GPU too, until somebody looked.
        """
        if os.getppid() != self._parent:
            logger.error("the worker process is gone: the engine ends itself")
            os.kill(os.getpid(), signal.SIGKILL)

    def _next_batch(self) -> Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._closing.is_set(), PEER_CHECK_S)
            if not self._news:
                return None
            self._news = False
            events, snapshot = self._log.take()
            load = self._load
        return Batch(load, events, snapshot, self._counters())


def _check_peer(connection: socket.socket) -> None:
    """Raise OSError if the peer closed. It never sends anything, so readable means closed.

    Never waits: a ``recv`` with MSG_DONTWAIT would, for the socket's whole timeout, since Python looks
    at the timeout first.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if poll.poll(0) and not connection.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError("the reader closed the connection")
