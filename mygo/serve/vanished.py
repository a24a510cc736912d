"""Giving up on workers that are gone without a word.

A process that ends closes its connections, and its calls fail at once. A machine that loses its power or its
network closes nothing, and gRPC asks after a silent connection every few minutes only. The directory knows
sooner: it forgets a worker that has stopped reporting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from ray.serve.handle import DeploymentResponseGenerator

from mygo.serve.calls import abandon
from mygo.types import WorkerId

logger = logging.getLogger(__name__)

VANISHED_S = 30.0
"""Longer than workers need to introduce themselves to a directory that begins anew."""


class OpenStreams:
    """What this ingress is waiting for, by worker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._streams: dict[WorkerId, set[DeploymentResponseGenerator]] = {}
        self._unknown_since_s: dict[WorkerId, float] = {}

    def __len__(self) -> int:
        return sum(len(streams) for streams in self._streams.values())

    def add(self, worker: WorkerId, stream: DeploymentResponseGenerator) -> None:
        self._streams.setdefault(worker, set()).add(stream)

    def discard(self, worker: WorkerId, stream: DeploymentResponseGenerator) -> None:
        streams = self._streams.get(worker, set())
        streams.discard(stream)
        if not streams:
            self._streams.pop(worker, None)

    def give_up_unknown(self, known: Collection[WorkerId]) -> None:
        """Cancel the streams of workers that the directory has not known for ``VANISHED_S``; whoever reads
        one sees that it is lost."""
        now_s = self._clock()
        self._unknown_since_s = {
            worker: self._unknown_since_s.get(worker, now_s)
            for worker in self._streams
            if known and worker not in known  # one that knows none has forgotten, or is too busy to hear
        }
        for worker, since_s in self._unknown_since_s.items():
            if now_s - since_s >= VANISHED_S:
                streams = self._streams.pop(worker)
                logger.warning("worker %s has vanished: giving up on %d requests", worker, len(streams))
                for stream in streams:
                    abandon(stream)
