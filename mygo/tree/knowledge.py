"""The knowledge tree: what the engine knows of every document in its path, whatever tier holds it.

A radix tree over blocks. Nodes are split where paths branch and where a segment ends, so a node is a
document in its path (RAGCache, arXiv 2404.12457), or part of one. The tree decides nothing: it keeps
the facts (frequency, cost, who waits), and each tier's ``Shelf`` decides with a policy what leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mygo.tree.loading import PrefillSeconds
from mygo.tree.node import Block, Holder, Node, Place
from mygo.tree.waiting import WaitingQueue
from mygo.types import Tier

# No device computes a token in less.
_LEAST_S_PER_TOKEN = 1e-9
_COMPUTED_BEHIND_TOKENS = 512
"""A typical rest of a prompt: what is computed in any case pays the fixed cost of a step."""


@dataclass(slots=True)
class _Request:
    last: Node
    """Where its path ends; split nodes keep their end, so this stays true."""
    answering: bool = False
    """``last`` was made of generated blocks and may grow."""


class KnowledgeTree:
    """The nodes on the paths of live requests, those that a tier holds, and a bounded memory of others.

    All times and orders are counted in admissions: nothing here reads a clock.
    """

    def __init__(
        self,
        *,
        block_tokens: int,
        prefill_s: PrefillSeconds,
        half_life_requests: float | None = 4_000.0,
        ghosts: int = 16_384,
        lookahead_tokens: int = 0,
    ) -> None:
        """``block_tokens``: of a block whose size ``begin`` is not told. ``prefill_s``: T(cached, new).

        ``half_life_requests``: an access counts half in ``Node.frequency`` after so many admissions; None:
        it counts for ever. ``ghosts``: leaves that hold nothing and serve nobody are remembered, so many
        at most, with their ancestors. ``lookahead_tokens``: cached tokens that waiting requests may
        protect together; the earliest one always may; 0 turns look-ahead off.
        """
        self.block_tokens = block_tokens
        self.prefill_s = prefill_s
        self.admissions = 0
        """Requests admitted so far."""
        self.root = Node([], 0, 0, 0, None)
        self.half_life_requests = half_life_requests
        self._max_ghosts = ghosts
        self._is_uniform = True
        """All blocks have ``block_tokens``."""
        self._places: dict[Block, Place] = {}
        self.place: Callable[[Block], Place | None] = self._places.get
        """Where a block stands; None if the tree does not know it."""
        self._nodes = 0
        self._holders: list[Holder] = []
        self._ghosts: OrderedDict[Node, None] = OrderedDict()
        self._requests: dict[str, _Request] = {}
        self.waiting = WaitingQueue(lookahead_tokens, self._awaited)
        """Requests that have begun and are not admitted yet."""

    def __len__(self) -> int:
        return self._nodes

    def __repr__(self) -> str:
        return (
            f"KnowledgeTree(nodes={self._nodes}, ghosts={len(self._ghosts)}, live={len(self._requests)}, "
            f"waiting={len(self.waiting)}, protected_tokens={self.waiting.protected_tokens})"
        )

    # --- requests --------------------------------------------------------------------------------

    def begin(
        self,
        request_id: str,
        blocks: Sequence[Block],
        segment_ends: Sequence[int] = (),
        *,
        sizes: Sequence[int] | None = None,
    ) -> None:
        """A request came and waits: its path is registered and kept until ``finished``.

        ``blocks``: its full blocks from the first token on. ``segment_ends``: token positions where
        segments end, in order; a block belongs to the segment of its last token. ``sizes``: tokens of
        each block, at least 1; None: all have ``block_tokens``. An id that is live begins anew.
        """
        self.finished(request_id)
        if sizes is None:
            cuts = [end // self.block_tokens for end in segment_ends]
        else:
            ends = list(accumulate(sizes, initial=0))
            cuts = _cuts(ends, segment_ends)
        last = self._register(self.root, blocks, cuts, sizes)
        self._requests[request_id] = _Request(last)
        for node in last.upward():
            node.live += 1
            self._ghosts.pop(node, None)
        self._forget_ghosts()
        self.waiting.join(request_id, last)

    def admitted(self, request_id: str, cached_tokens: int) -> None:
        """A waiting request leaves the queue with ``cached_tokens`` leading tokens cached.

        Its nodes count the access; those that must be computed learn what that costs, as RAGCache does:
        T(cached, new) / new of the whole request. Ignored for ids that do not wait (unknown, preempted).
        """
        if not self.waiting.leave(request_id):
            return
        last = self._requests[request_id].last
        self.admissions += 1
        new_tokens = last.end_tokens - cached_tokens
        s_per_token = self.prefill_s(cached_tokens, new_tokens) / new_tokens if new_tokens > 0 else 0.0
        path = list(last.upward())[::-1]
        for node in path:
            self._count_access(node)
            if node.end_tokens > cached_tokens:
                node.computed += 1
                node.computed_s_per_token += s_per_token
        for node in path:
            hit = node.start_tokens < cached_tokens
            for holder in self._holders:
                holder.accessed(node, hit=hit)

    def extend(self, request_id: str, blocks: Sequence[Block], *, sizes: Sequence[int] | None = None) -> None:
        """Generated blocks were appended to a live request's path. Unknown ids are ignored."""
        request = self._requests.get(request_id)
        if request is None or not blocks:
            return
        last = request.last
        if request.answering and last.live == 1 and not last.children:
            self._append(last, blocks, sizes)
            return
        request.last = self._register(last, blocks, (), sizes)
        request.answering = True
        for node in request.last.upward():
            if node is last:
                break
            node.live += 1
            self._ghosts.pop(node, None)
            self._count_access(node)
        self._forget_ghosts()

    def finished(self, request_id: str) -> None:
        """A request ended, in whatever way, waiting or running. Unknown ids are ignored."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self.waiting.leave(request_id)
        for node in request.last.upward():
            node.live -= 1
        self._retire(request.last)

    # --- facts -----------------------------------------------------------------------------------

    def cost_s_per_token(self, node: Node) -> float:
        """Average prefill seconds per token of the node when it was computed.

        A node that was never seen computed (pulled from elsewhere, or generated) costs what computing
        it alone behind its path would: T(start, tokens) / tokens.
        """
        if node.computed:
            return node.computed_s_per_token / node.computed
        return self.prefill_s(node.start_tokens, node.tokens) / node.tokens

    def tokens_of(self, blocks: Collection[Block]) -> int:
        """Tokens of these known blocks together."""
        if self._is_uniform:
            return len(blocks) * self.block_tokens
        return sum(self._places[block].tokens for block in blocks)

    def runs(self, blocks: Sequence[Block]) -> Iterator[tuple[Node | None, int, Sequence[Block]]]:
        """Cut ``blocks`` into runs that follow one another in a node: (node, the run's place in it, run).
        Unknown blocks come one by one, with None."""
        at = 0
        while at < len(blocks):
            node, first, count = None, 0, 1
            place = self._places.get(blocks[at])
            if place is not None:
                node, first = place.node, place.depth - place.node.first_block
                own = node.blocks[first : first + len(blocks) - at]
                count = len(own)
                if own != blocks[at : at + count]:
                    count = next(i for i, each in enumerate(own) if each != blocks[at + i])
            yield node, first, blocks[at : at + count]
            at += count

    def path(self, request_id: str) -> list[Node]:
        """The nodes of a live request, from the last one up to the first."""
        return list(self._requests[request_id].last.upward())

    def saved_s_per_token(self, node: Node) -> float:
        """Prefill seconds per token that holding the node spares a request that computes more behind it.

        More than 0: a learned T(cached, new) may say that tokens cost nothing, and is wrong.
        """
        behind = self.prefill_s(node.end_tokens, _COMPUTED_BEHIND_TOKENS)
        both = self.prefill_s(node.start_tokens, node.tokens + _COMPUTED_BEHIND_TOKENS)
        return max((both - behind) / node.tokens, _LEAST_S_PER_TOKEN)

    def nodes(self) -> Iterator[Node]:
        """Every node but the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    # --- tiers -----------------------------------------------------------------------------------

    def attach(self, holder: Holder) -> None:
        """A tier begins; it is told from now on."""
        self._holders.append(holder)

    def hold(self, node: Node, tier: Tier, tokens: int) -> None:
        """For shelves: ``tier`` holds ``tokens`` more of the node (fewer, if negative)."""
        before = node.held.get(tier, 0)
        held = before + tokens
        if held:
            node.held[tier] = held
            if not before:
                self._ghosts.pop(node, None)
        else:
            del node.held[tier]
            self._retire(node)
        if (before == node.tokens) != (held == node.tokens):
            for holder in self._holders:
                if holder.tier != tier:
                    holder.held_elsewhere(node, tier)

    # --- parts -----------------------------------------------------------------------------------

    def _register(
        self, node: Node, blocks: Sequence[Block], cuts: Sequence[int], sizes: Sequence[int] | None
    ) -> Node:
        """Make ``blocks`` a path below ``node`` whose nodes end at ``cuts``, and return its last node."""
        at = 0
        for cut in (*cuts, len(blocks)):
            while at < min(cut, len(blocks)):
                child = node.children.get(blocks[at])
                if child is None:
                    child = self._add(node, blocks[at:cut], None if sizes is None else sizes[at:cut])
                else:
                    common = min(_common(child.blocks, blocks, at), cut - at)
                    if common < len(child.blocks):
                        child = self._split(child, common)
                at += len(child.blocks)
                node = child
        return node

    def _add(self, parent: Node, blocks: Sequence[Block], sizes: Sequence[int] | None) -> Node:
        node = Node([], parent.first_block + len(parent.blocks), parent.end_tokens, 0, parent)
        parent.children[blocks[0]] = node
        self._ghosts.pop(parent, None)
        self._nodes += 1
        self._append(node, blocks, sizes)
        return node

    def _append(self, node: Node, blocks: Sequence[Block], sizes: Sequence[int] | None) -> None:
        first = node.first_block + len(node.blocks)
        if sizes is None:
            for depth, block in enumerate(blocks, first):
                self._places[block] = Place(node, depth, self.block_tokens)
            node.tokens += len(blocks) * self.block_tokens
        else:
            self._is_uniform = False
            for depth, (block, tokens) in enumerate(zip(blocks, sizes, strict=True), first):
                self._places[block] = Place(node, depth, tokens)
                node.tokens += tokens
        node.blocks.extend(blocks)
        for holder in self._holders:
            holder.added(node, blocks)

    def _split(self, tail: Node, blocks: int) -> Node:
        """Make the first ``blocks`` of a node its new parent, and return that.

        It costs as much as those blocks, and whoever causes a split walks them anyway; so splits cost
        no more than the paths of the requests that cause them, however long the node is.
        """
        moved = tail.blocks[:blocks]
        places = [self._places[block] for block in moved]
        tokens = self.tokens_of(moved)
        parent = tail.parent
        assert parent is not None
        head = Node(
            moved,
            tail.first_block,
            tail.start_tokens,
            tokens,
            parent,
            live=tail.live,
            frequency=tail.frequency,
            accessed_at=tail.accessed_at,
            computed=tail.computed,
            computed_s_per_token=tail.computed_s_per_token,
            awaited_by=list(tail.awaited_by),
            awaited_tokens=min(tail.awaited_tokens, tokens),  # what is held of a node is its beginning
        )
        tail.awaited_tokens -= head.awaited_tokens
        for block, place in zip(moved, places, strict=True):
            self._places[block] = place._replace(node=head)
        parent.children[moved[0]] = head
        del tail.blocks[:blocks]
        tail.parent = head
        tail.first_block += blocks
        tail.start_tokens += tokens
        tail.tokens -= tokens
        head.children[tail.blocks[0]] = tail
        self._nodes += 1
        for holder in self._holders:
            held = holder.tokens_of(moved)
            if held:
                head.held[holder.tier] = held
                tail.held[holder.tier] -= held
                if not tail.held[holder.tier]:
                    del tail.held[holder.tier]
        for holder in self._holders:
            holder.split(head, tail)
        self._make_ghost(tail)
        return head

    def _count_access(self, node: Node) -> None:
        aged = node.frequency
        if self.half_life_requests is not None:
            aged *= 0.5 ** ((self.admissions - node.accessed_at) / self.half_life_requests)
        node.frequency = aged + 1
        node.accessed_at = self.admissions

    def _retire(self, node: Node) -> None:
        """Make a ghost of the node if nothing needs it, and forget ghosts that are too many."""
        self._make_ghost(node)
        self._forget_ghosts()

    def _forget_ghosts(self) -> None:
        while len(self._ghosts) > self._max_ghosts:
            oldest = next(iter(self._ghosts))
            del self._ghosts[oldest]
            parent = oldest.parent
            assert parent is not None
            del parent.children[oldest.blocks[0]]
            for block in oldest.blocks:
                del self._places[block]
            self._nodes -= 1
            if self._make_ghost(parent):
                # its last use was its last child's: it is next
                self._ghosts.move_to_end(parent, last=False)

    def _make_ghost(self, node: Node) -> bool:
        idle = node.live == 0 and not node.held and not node.children and node.parent is not None
        if idle:
            self._ghosts[node] = None
        return idle

    def _awaited(self, node: Node) -> None:
        for holder in self._holders:
            holder.awaited(node)


def _cuts(ends: Sequence[int], segment_ends: Sequence[int]) -> list[int]:
    """How many blocks end at or before each segment end; ``ends[i]``: tokens of the first i blocks."""
    cuts: list[int] = []
    blocks = 0
    for segment_end in segment_ends:
        while blocks + 1 < len(ends) and ends[blocks + 1] <= segment_end:
            blocks += 1
        cuts.append(blocks)
    return cuts


def _common(own: Sequence[Block], blocks: Sequence[Block], at: int) -> int:
    """How many leading blocks of ``own``, at least one, are ``blocks[at:]``'s.

    A block names its whole path, so what is equal at one place is equal before it: bisect.
    """
    low, high = 1, min(len(own), len(blocks) - at)
    if own[high - 1] == blocks[at + high - 1]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if own[middle - 1] == blocks[at + middle - 1]:
            low = middle
        else:
            high = middle
    return low
