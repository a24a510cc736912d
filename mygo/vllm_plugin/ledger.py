"""Which segments an engine's tiers hold, told from their blocks. Pure bookkeeping; imports no vLLM.

Blocks and segments are many to many. A segment owns the blocks whose last token it has. A block that
spans a border is owned by every segment that begins with the same few tokens: all questions behind
one document, all documents behind one system prompt.

The cache's events only say *where to look*: one block hash can have several physical blocks, so
"removed" need not mean gone. The cache is asked when somebody is told: by then a block may have come to one
tier, to the next and to the one after that, and is looked for once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mygo.types import ResidencyEvent, SegmentKey, SegmentSpan, Tier

# Idle segments of which one shared block is left are kept for at most this many owners of it. A hot
# border block would otherwise keep a record of every question ever asked behind its document.
MAX_IDLE_OWNERS = 4

_SLOWER = {Tier.DEVICE: 0, Tier.HOST: 1, Tier.DISK: 2}
_FASTER = {Tier.DEVICE: (), Tier.HOST: (Tier.DEVICE,), Tier.DISK: (Tier.DEVICE, Tier.HOST)}


class _Held(NamedTuple):
    prefix_tokens: int
    complete: bool
    tier: Tier


_NOTHING = _Held(0, False, Tier.DEVICE)
_NO_TAGS: frozenset[str] = frozenset()


@dataclass(eq=False, slots=True)
class _Block:
    name: Hashable
    """Its event id."""
    block_hash: bytes
    owners: dict[SegmentKey, None]
    tier: Tier | None = None
    """The fastest that held it when last looked."""


@dataclass(slots=True)
class _Node:
    """A segment in its path."""

    key: SegmentKey
    parent: SegmentKey | None
    start_tokens: int
    end_tokens: int
    first_block: int
    blocks: tuple[_Block, ...]
    """Those it owns, in prompt order."""
    salt: str
    tag: str
    tags: frozenset[str]
    """Those of all passages on the path, its own included, and of what has left something in them."""
    live: int = 0
    """Unfinished requests that have this segment in their prompt."""
    reported: _Held = _NOTHING
    """What the last event said about it."""


class Ledger:
    """Segments that a tier holds or a live request names.

    ``tier_of`` asks for the fastest tier that holds a block hash. ``event_id`` turns a block hash into
    the name that the cache's events use for it. A segment is forgotten when no live request names it and
    nothing of it is held, or only blocks that MAX_IDLE_OWNERS others own as well.
    """

    def __init__(
        self,
        block_tokens: int,
        tier_of: Callable[[bytes], Tier | None],
        event_id: Callable[[bytes], Hashable],
    ) -> None:
        self._block_tokens = block_tokens
        self._tier_of = tier_of
        self._event_id = event_id
        self._nodes: dict[SegmentKey, _Node] = {}
        self._blocks: dict[Hashable, _Block] = {}
        """By their event ids."""
        self._unseen: dict[_Block, None] = {}
        """Those to look for."""
        self._requests: dict[str, list[_Node]] = {}
        self._dirty: dict[SegmentKey, None] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        return f"Ledger(segments={len(self)}, blocks={len(self._blocks)})"

    # --- requests ------------------------------------------------------------------------------

    def begin(
        self,
        request_id: str,
        spans: Sequence[SegmentSpan],
        block_hashes: Sequence[bytes],
        seen: Sequence[frozenset[str]] = (),
    ) -> None:
        """A request came: register its path. ``block_hashes`` are those of its full blocks, as they are under
        these names. ``seen``: by segment, tags of passages that are not on the path and have left something
        in it.

        The request keeps its segments registered until ``finish``.
        """
        path: list[_Node] = []
        parent: SegmentKey | None = None
        start_tokens = 0
        for number, span in enumerate(spans):
            before = path[-1].tags if path else _NO_TAGS
            if seen:
                before |= seen[number]
            node = self._register(span, parent, start_tokens, block_hashes, before)
            node.live += 1
            path.append(node)
            parent, start_tokens = span.key, span.end_tokens
        self._requests[request_id] = path

    def extend(
        self, request_id: str, key: SegmentKey, end_tokens: int, block_hashes: Sequence[bytes]
    ) -> None:
        """Append a segment (the generated answer) to the path of a live request.

        ``block_hashes`` are those of all full blocks of the request, the answer's included.
        """
        path = self._requests[request_id]
        last = path[-1]
        span = SegmentSpan(key, end_tokens, last.salt)
        node = self._register(span, last.key, last.end_tokens, block_hashes, last.tags)
        node.live += 1
        path.append(node)

    def finish(self, request_id: str) -> None:
        """A request ended, in whatever way. Unknown ids are ignored."""
        for node in self._requests.pop(request_id, ()):
            node.live -= 1
            self._dirty[node.key] = None

    # --- the cache -----------------------------------------------------------------------------

    def observe(self, event_ids: Iterable[Hashable], tier: Tier = Tier.DEVICE) -> None:
        """``tier`` stored or removed something under these names. What a faster one holds stays there; if
        it does not, that one has told, too."""
        faster = _FASTER[tier]
        for event_id in event_ids:
            block = self._blocks.get(event_id)
            if block is not None and block.tier not in faster:
                self._unseen[block] = None

    def observe_all(self) -> None:
        """Anything may have changed (the cache was cleared)."""
        self._unseen.update(dict.fromkeys(self._blocks.values()))

    # --- passages ------------------------------------------------------------------------------

    def in_sight_of(self, tags: Collection[str]) -> list[bytes]:
        """Hashes of all blocks that were computed in sight of a passage with one of these tags: its own, and
        everything behind it, in any path. A block that also holds the beginning of other segments counts."""
        wanted = frozenset(tags)
        blocks: dict[_Block, None] = {}
        for node in self._nodes.values():
            if not wanted.isdisjoint(node.tags):
                blocks.update(dict.fromkeys(node.blocks))
        return [block.block_hash for block in blocks]

    def tags_of(self, block_hash: bytes) -> frozenset[str]:
        """Tags of the passages in whose sight a block was computed. Empty for unknown blocks."""
        node = self._owner(block_hash)
        return node.tags if node is not None else _NO_TAGS

    def describe(self, block_hash: bytes) -> tuple[str, str]:
        """Tag and salt of the segment that a block belongs to; empty for unknown blocks."""
        node = self._owner(block_hash)
        return (node.tag, node.salt) if node is not None else ("", "")

    def _owner(self, block_hash: bytes) -> _Node | None:
        """One of them, if there are several: they begin alike."""
        block = self._blocks.get(self._event_id(block_hash))
        return self._nodes[next(iter(block.owners))] if block is not None else None

    # --- what to tell --------------------------------------------------------------------------

    def take_events(self) -> list[ResidencyEvent]:
        """One event per segment that holds more or less than was last told; then forget the idle."""
        self._look()
        events: list[ResidencyEvent] = []
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            node = self._nodes[key]
            kept = node.live > 0 or self._worth_keeping(node)
            held = self._held(node) if kept else _NOTHING
            if held != node.reported:
                node.reported = held
                events.append(_event(node))
            if not kept:
                self._forget(node)
        return events

    def snapshot(self) -> list[ResidencyEvent]:
        """All that was told and still holds."""
        return [_event(node) for node in self._nodes.values() if node.reported != _NOTHING]

    def check(self) -> None:
        """Assert the invariants; for tests."""
        for name, block in self._blocks.items():
            assert block.owners and block.name == name, f"{name!r} has no owner"
            assert all(block in self._nodes[key].blocks for key in block.owners)
        for node in self._nodes.values():
            assert all(node.key in self._blocks[block.name].owners for block in node.blocks)
        assert all(self._blocks[block.name] is block for block in self._unseen)

    # --- parts ---------------------------------------------------------------------------------

    def _register(
        self,
        span: SegmentSpan,
        parent: SegmentKey | None,
        start_tokens: int,
        block_hashes: Sequence[bytes],
        tags_before: frozenset[str],
    ) -> _Node:
        # A key is a hash of its whole path, so a known one has the same blocks.
        key = span.key
        node = self._nodes.get(key)
        if node is not None:
            return node
        first = start_tokens // self._block_tokens
        tags = tags_before | {span.tag} if span.tag else tags_before
        blocks: list[_Block] = []
        for block_hash in block_hashes[first : span.end_tokens // self._block_tokens]:
            name = self._event_id(block_hash)
            block = self._blocks.get(name)
            if block is None:
                block = self._blocks[name] = _Block(name, block_hash, {key: None})
                self._unseen[block] = None
            else:
                block.owners[key] = None
            blocks.append(block)
        node = self._nodes[key] = _Node(
            key, parent, start_tokens, span.end_tokens, first, tuple(blocks), span.salt, span.tag, tags
        )
        self._dirty[key] = None
        return node

    def _look(self) -> None:
        for block in self._unseen:
            tier = self._tier_of(block.block_hash)
            if tier is not block.tier:
                block.tier = tier
                self._dirty.update(block.owners)
        self._unseen.clear()

    def _held(self, node: _Node) -> _Held:
        """A hole makes the rest of the segment unreachable: only leading blocks count.

        Their tier is that of the slowest of them, since all have to come.
        """
        slowest = Tier.DEVICE
        blocks = 0
        for block in node.blocks:
            tier = block.tier
            if tier is None:
                break
            if tier is not slowest and _SLOWER[tier] > _SLOWER[slowest]:
                slowest = tier
            blocks += 1
        if blocks == 0:
            return _NOTHING
        prefix_tokens = (node.first_block + blocks) * self._block_tokens
        return _Held(prefix_tokens, blocks == len(node.blocks), slowest)

    def _worth_keeping(self, node: _Node) -> bool:
        return any(block.tier is not None and len(block.owners) <= MAX_IDLE_OWNERS for block in node.blocks)

    def _forget(self, node: _Node) -> None:
        del self._nodes[node.key]
        for block in node.blocks:
            del block.owners[node.key]
            if not block.owners:
                del self._blocks[block.name]


def _event(node: _Node) -> ResidencyEvent:
    return ResidencyEvent(node.key, node.parent, node.start_tokens, node.end_tokens, *node.reported)
