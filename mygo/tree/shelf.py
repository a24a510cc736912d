"""A shelf: what one tier holds of the knowledge tree, and who leaves next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice, takewhile

from mygo.tree.exits import Exits, Holding, Mirrors, Standing
from mygo.tree.knowledge import KnowledgeTree
from mygo.tree.node import Block, Node, Place
from mygo.tree.policies.base import Policy
from mygo.types import Tier

_Taken = tuple[Node, list[Block], int]  # blocks of a node, and their tokens


class Shelf:
    """The blocks that a tier holds, each with the number of its users.

    Blocks that the tree does not know (found after a restart, say) may be held: they leave before all
    others, least recently used first. Blocks of a node leave from its tail to its head, and a node only
    when nothing below it is held. Order among nodes: those that nobody can reach, then ``mirrors``, then as
    the policy says.

    Each operation takes O(log n) amortised for n nodes, besides what it moves; only a hole in the middle
    of a path costs a walk over what lies behind it.
    """

    def __init__(
        self,
        tree: KnowledgeTree,
        tier: Tier,
        policy: Policy,
        *,
        mirrors: Mirrors | None = None,
        on_evict: Callable[[Tier, Node, int], None] | None = None,
    ) -> None:
        """``policy`` must be this shelf's own: clocks are per tier.

        ``mirrors``: under pressure give up nodes first that a faster tier holds as well. ``on_evict`` is told
        of each eviction, by node: (tier, node, tokens that left).
        """
        self.tree = tree
        self.tier = tier
        self.policy = policy
        self.held_tokens = 0
        """Of all blocks that the tree knows."""
        self._mirrors = mirrors
        self._keeps_mirrors = False
        self._on_evict = on_evict
        self._faster = tuple(takewhile(lambda each: each is not tier, Tier))
        self._reach = (tier, *self._faster)
        self._users: dict[Block, int] = {}
        self._strangers: OrderedDict[Block, None] = OrderedDict()
        """Blocks without users that the tree does not know, least recently used first."""
        self._holdings: dict[Node, Holding] = {}
        self._exits = Exits(policy, mirrors.spared_tokens if mirrors else 0)
        tree.attach(self)

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._users)

    def __iter__(self) -> Iterator[Block]:
        """Held blocks, in no particular order."""
        return iter(self._users)

    def __repr__(self) -> str:
        return f"Shelf({self.tier}, blocks={len(self)}, nodes={len(self._holdings)})"

    def holds(self, block: Block) -> bool:
        return block in self._users

    # --- what the tier does ------------------------------------------------------------------------

    def put(self, block: Block) -> None:
        """A block came, and somebody uses it: ``unlock`` when they are done.

        A block that is held already gets one more user.
        """
        self.put_all((block,))

    def put_all(self, blocks: Iterable[Block], *, in_use: bool = True) -> None:
        """As ``put`` for each of ``blocks``, and unless ``in_use`` then ``unlock``; a run of blocks in prompt
        order takes little more time than one."""
        for node, first, run in self.tree.runs(list(blocks)):
            if not self._users.keys().isdisjoint(run):
                for block in run:
                    if block not in self._users:
                        self.put_all((block,), in_use=in_use)
                    elif in_use:
                        self.lock(block)
                continue
            self._users.update(dict.fromkeys(run, int(in_use)))
            if node is not None:
                last = node.first_block + first + len(run) - 1
                self._hold(node, last, len(run), self.tree.tokens_of(run))
            elif not in_use:
                self._strangers.update(dict.fromkeys(run))

    def lock(self, block: Block) -> None:
        """One more user of a held block: it cannot leave. Blocks that are not held are ignored."""
        users = self._users.get(block)
        if users is None:
            return
        self._users[block] = users + 1
        if users == 0:
            place = self.tree.place(block)
            if place is None:
                del self._strangers[block]
            elif place.depth == self._holdings[place.node].last:
                self._settle(place.node)

    def unlock(self, block: Block) -> None:
        """One user less. Blocks that are not held are ignored. Raises ValueError if nobody used it."""
        self.unlock_all((block,))

    def unlock_all(self, blocks: Iterable[Block]) -> None:
        """As ``unlock`` for each of ``blocks``, in any order."""
        ended: dict[Node, None] = {}
        for block in blocks:
            users = self._users.get(block)
            if users is None:
                continue
            if users == 0:
                raise ValueError(f"{self.tier}: block {block!r} is unlocked but has no user")
            self._users[block] = users - 1
            if users == 1:
                place = self.tree.place(block)
                if place is None:
                    self._strangers[block] = None
                else:
                    ended[place.node] = None
        for node in ended:
            self._settle(node)

    def drop(self, block: Block) -> None:
        """A block is gone by other means, used or not. Blocks that are not held are ignored."""
        if self._users.pop(block, None) is None:
            return
        self._strangers.pop(block, None)
        place = self.tree.place(block)
        if place is not None:
            self._release(place)

    def clear(self) -> None:
        """Everything is gone."""
        for block in list(self._users)[::-1]:
            self.drop(block)

    def evict(self, blocks: int, protected: Collection[Block] = frozenset()) -> list[Block] | None:
        """Let exactly ``blocks`` blocks go and return them, in the order in which they leave.

        None, and nothing changed, if so many cannot go: blocks in use, ``protected`` ones, and what lies
        before them stay.
        """
        strangers, gone = self._choose(blocks, protected)
        if len(strangers) + sum(len(taken) for _, taken, _ in gone) < blocks:
            self._put_back(gone)
            return None
        for block in strangers:
            del self._strangers[block], self._users[block]
        self._let_go(gone)
        return [*strangers, *(block for _, taken, _ in gone for block in taken)]

    def leaving(self, blocks: int) -> list[Block]:
        """The next ``blocks`` blocks that would leave, or as many as there are, in that order. They stay."""
        strangers, gone = self._choose(blocks, frozenset())
        self._put_back(gone)
        return [*strangers, *(block for _, taken, _ in gone for block in taken)]

    def keep_mirrors(self) -> None:
        """From now on no copy leaves of what a faster tier holds: that tier is about to end."""
        self._keeps_mirrors = True
        for node in self._holdings:
            self._settle(node)

    # --- what the tree tells (mygo.tree.node.Holder) ------------------------------------------------

    def added(self, node: Node, blocks: Iterable[Block]) -> None:
        for block in filter(self._users.__contains__, blocks):
            self._strangers.pop(block, None)
            place = self.tree.place(block)
            assert place is not None
            self._hold(node, place.depth, 1, place.tokens)
        if node in self._holdings:
            self._settle(node)

    def tokens_of(self, blocks: Iterable[Block]) -> int:
        return self.tree.tokens_of([block for block in blocks if block in self._users])

    def split(self, head: Node, tail: Node) -> None:
        whole = self._holdings.get(tail)
        if whole is None:
            return
        self._stand(tail, Standing.STAYS)
        depths = [depth for depth, block in enumerate(head.blocks, head.first_block) if block in self._users]
        whole.blocks -= len(depths)
        if depths:
            self.policy.split(head, tail, head.held[self.tier])
            self._holdings[head] = Holding(len(depths), depths[-1], int(whole.blocks > 0), whole.lost)
            self._settle(head)
        else:
            self._child(head, -1)
        if whole.blocks:
            whole.lost = self._cut_off(tail)
            self._settle(tail)
        else:
            self.policy.remove(tail)
            del self._holdings[tail]

    def accessed(self, node: Node, *, hit: bool) -> None:
        if node in self._holdings:
            self.policy.access(node, hit=hit)

    def awaited(self, node: Node) -> None:
        holding = self._holdings.get(node)
        if holding is not None and holding.standing is Standing.EXPOSED:
            self.policy.hide(node)
            self.policy.expose(node)

    def held_elsewhere(self, node: Node, tier: Tier) -> None:
        if tier in self._faster:
            if node.children and not node.holds_all(self.tier):
                self._reach_below(node)
            if node in self._holdings:
                self._settle(node)

    # --- parts -------------------------------------------------------------------------------------

    def _settle(self, node: Node, *, back: bool = False) -> None:
        """Find out whether the node may leave, and why. ``back``: see ``Exits.move``."""
        holding, mirrors = self._holdings[node], self._mirrors
        mirrored = mirrors is not None and node.held.get(mirrors.tier) == node.tokens
        may_cut = mirrored and mirrors is not None and mirrors.come_back
        stays = (holding.children and not may_cut) or (mirrored and self._keeps_mirrors)
        if stays or not holding.blocks or self._users[node.blocks[holding.last - node.first_block]]:
            standing = Standing.STAYS
        elif holding.lost or holding.last - node.first_block + 1 != holding.blocks:
            standing = Standing.LOST
        elif mirrored:
            standing = Standing.MIRROR
        else:
            standing = Standing.EXPOSED
        if standing is not holding.standing:
            self._exits.move(node, holding, standing, back=back)

    def _stand(self, node: Node, standing: Standing) -> None:
        self._exits.move(node, self._holdings[node], standing)

    def _hold(self, node: Node, last: int, blocks: int, tokens: int) -> None:
        """Some more blocks of a node came, the last of them at depth ``last``."""
        holding = self._holdings.get(node)
        if holding is None:
            below = sum(child in self._holdings for child in node.children.values())
            holding = self._holdings[node] = Holding(children=below, lost=self._cut_off(node))
            self.policy.insert(node)
            self._child(node, 1)
        holding.blocks += blocks
        holding.last = max(holding.last, last)
        self._count(node, tokens)
        self.tree.hold(node, self.tier, tokens)
        if node.children and node.holds_all(self.tier) and not node.held_by(self._faster):
            self._reach_below(node)
        self._settle(node)

    def _release(self, place: Place) -> None:
        node, _, tokens = place
        whole = node.held_by(self._reach)
        holding = self._holdings[node]
        holding.blocks -= 1
        self._count(node, -tokens)
        if not holding.blocks:
            self._stand(node, Standing.STAYS)
            self.policy.remove(node)
            del self._holdings[node]
            self._child(node, -1)
        else:
            while node.blocks[holding.last - node.first_block] not in self._users:
                holding.last -= 1
            self._settle(node)
        self.tree.hold(node, self.tier, -tokens)
        if node.held_by(self._reach) != whole:
            self._reach_below(node)

    def _choose(self, blocks: int, protected: Collection[Block]) -> tuple[list[Block], list[_Taken]]:
        """The first half of an eviction: whose turn it is, ``blocks`` blocks at most."""
        strangers = list(islice((each for each in self._strangers if each not in protected), blocks))
        wanted = blocks - len(strangers)
        gone: list[_Taken] = []
        spared: list[Node] = []
        while wanted > 0 and (node := self._exits.first()) is not None:
            taken, tokens = self._take(node, wanted, protected)
            if taken:
                gone.append((node, taken, tokens))
                wanted -= len(taken)
            else:
                self._stand(node, Standing.STAYS)
                spared.append(node)
        for node in spared:
            self._settle(node)
        return strangers, gone

    def _take(self, node: Node, most: int, protected: Collection[Block]) -> tuple[list[Block], int]:
        """The last blocks of a node, and their tokens, are out of the way, and nobody else knows yet."""
        holding = self._holdings[node]
        if holding.standing is Standing.LOST:
            most = 1  # what lies before a hole need not be lost
        users, blocks, at = self._users, node.blocks, holding.last - node.first_block
        taken: list[Block] = []
        while len(taken) < most and not users[blocks[at]] and blocks[at] not in protected:
            taken.append(blocks[at])
            del users[blocks[at]]
            if len(taken) == holding.blocks:
                break
            while blocks[at] not in users:
                at -= 1
        tokens = self.tree.tokens_of(taken)
        if taken:
            holding.blocks -= len(taken)
            holding.last = at + node.first_block
            self._count(node, -tokens)
            if holding.blocks:
                self._settle(node)
            else:
                self._stand(node, Standing.STAYS)
                self._child(node, -1)
        return taken, tokens

    def _put_back(self, gone: list[_Taken]) -> None:
        """Undo ``_choose``."""
        for node, blocks, tokens in reversed(gone):
            place = self.tree.place(blocks[0])
            assert place is not None
            holding = self._holdings[node]
            self._users.update(dict.fromkeys(blocks, 0))
            holding.blocks += len(blocks)
            holding.last = place.depth
            self._count(node, tokens)
            if holding.blocks == len(blocks):
                self._child(node, 1)
            self._settle(node, back=True)

    def _let_go(self, gone: Iterable[_Taken]) -> None:
        """The second half of an eviction."""
        tokens: dict[Node, int] = {}
        for node, _, taken_tokens in gone:
            tokens[node] = tokens.get(node, 0) + taken_tokens
        for node, evicted_tokens in tokens.items():
            whole = node.held_by(self._reach)
            self.policy.evicted(node)
            if self._on_evict is not None:
                self._on_evict(self.tier, node, evicted_tokens)
            if not self._holdings[node].blocks:
                self.policy.remove(node)
                del self._holdings[node]
            self.tree.hold(node, self.tier, -evicted_tokens)
            if node.held_by(self._reach) != whole:
                self._reach_below(node)

    def _count(self, node: Node, tokens: int) -> None:
        self.held_tokens += tokens
        self.policy.resize(node, tokens)

    def _child(self, node: Node, change: int) -> None:
        """The tier began (1) or ceased (-1) to hold something of the node."""
        above = self._holdings.get(node.parent) if node.parent else None
        if above is not None and node.parent is not None:
            above.children += change
            if above.children == max(change, 0):  # its first, or its last
                self._settle(node.parent)

    # --- holes -------------------------------------------------------------------------------------

    def _cut_off(self, node: Node) -> bool:
        """Something before the node is missing in this tier and in all faster ones."""
        assert node.parent is not None
        for ancestor in node.parent.upward():
            if not ancestor.held_by(self._reach):
                return True
            holding = self._holdings.get(ancestor)
            if holding is not None:
                return holding.lost
        return False

    def _reach_below(self, node: Node) -> None:
        """A node became whole, or ceased to be: tell what lies behind it whether it can be reached."""
        changed = [node]
        while changed:
            for child in changed.pop().children.values():
                holding = self._holdings.get(child)
                if holding is not None:
                    lost = self._cut_off(child)
                    if lost == holding.lost:
                        continue
                    holding.lost = lost
                    self._settle(child)
                if child.held_by(self._reach):
                    changed.append(child)
