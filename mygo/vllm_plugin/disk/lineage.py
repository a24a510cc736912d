"""Which passages the chunks of earlier processes were computed in sight of.

Of chunks that this process has seen requests for, the plugin knows it. Of the others only their headers tell:
they are read once, when a passage is purged for the first time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from mygo.vllm_plugin.disk.format import TAG_BYTES, ChunkKey


class Lineage:
    """Tags to purge, and the tags of chunks that were found at start."""

    def __init__(self) -> None:
        self.reading = False
        """Headers are being read."""
        self._purging: set[bytes] = set()
        self._tags: dict[ChunkKey, frozenset[bytes]] = {}
        self._paths: dict[bytes, frozenset[bytes]] = {}
        """Equal headers share one set: a document's chunks have the same tags."""

    @property
    def is_purging(self) -> bool:
        """Some chunk may have to go, and it is not known yet which."""
        return bool(self._purging)

    def purge(self, tags: Iterable[bytes]) -> None:
        self._purging.update(tags)

    def unknown(self, found: Collection[ChunkKey]) -> list[ChunkKey]:
        """Those whose header was not read yet."""
        return [key for key in found if key not in self._tags]

    def learn(self, headers: Mapping[ChunkKey, bytes]) -> None:
        """Tags of chunks, as they stand in their headers."""
        for key, tags in headers.items():
            path = self._paths.get(tags)
            if path is None:
                path = self._paths[tags] = frozenset(
                    tags[start : start + TAG_BYTES] for start in range(0, len(tags), TAG_BYTES)
                )
            self._tags[key] = path

    def take_doomed(self, found: Collection[ChunkKey]) -> list[ChunkKey]:
        """Chunks that must go; then nothing is to be purged any more. All must be known."""
        doomed = [key for key in found if not self._purging.isdisjoint(self._tags[key])]
        self._purging.clear()
        return doomed
