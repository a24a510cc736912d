"""What is held, and what somebody has not yet been told about it.

Both ends of the socket need this: the engine's end because it may not wait for the socket, the
worker's end because its reader may be slow. Memory is bounded by what is held: a listener who
falls far behind is given everything anew instead of a history.
"""

from __future__ import annotations

from collections.abc import Iterable

from mygo.types import ResidencyEvent, SegmentKey

# Changes beyond what is held (removals) from which a snapshot is the shorter story.
_SLACK_EVENTS = 1024


class ResidencyLog:
    """Coalesces ResidencyEvents, which are statements: the last one about a segment counts."""

    def __init__(self) -> None:
        self._held: dict[SegmentKey, ResidencyEvent] = {}
        self._changed: dict[SegmentKey, ResidencyEvent] = {}
        self._tell_all = True

    def __repr__(self) -> str:
        behind = "all" if self._tell_all else str(len(self._changed))
        return f"ResidencyLog(held={len(self._held)}, untold={behind})"

    def record(self, events: Iterable[ResidencyEvent]) -> None:
        for event in events:
            if event.prefix_tokens:
                self._held[event.key] = event
            else:
                self._held.pop(event.key, None)
            if not self._tell_all:
                self._changed[event.key] = event
        if len(self._changed) > len(self._held) + _SLACK_EVENTS:
            self.tell_all()

    def replace(self, events: Iterable[ResidencyEvent]) -> None:
        """``events`` is all that is held; the listener is told all of it next."""
        self._held = {event.key: event for event in events}
        self.tell_all()

    def tell_all(self) -> None:
        """The next ``take`` is a snapshot: the listener is new, or has lost track."""
        self._changed.clear()
        self._tell_all = True

    def take(self) -> tuple[tuple[ResidencyEvent, ...], bool]:
        """What the listener has not been told, and whether that is all that is held."""
        snapshot, self._tell_all = self._tell_all, False
        events = tuple((self._held if snapshot else self._changed).values())
        self._changed.clear()
        return events, snapshot
