"""The disk's order in the disk tier's own catalog, against a naive model of every chunk's state."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shelf_model import check_order, knowledge_tree, path, willing

from mygo.tree.policies import make
from mygo.tree.shelf import Shelf
from mygo.types import Tier
from mygo.vllm_plugin.disk.catalog import Catalog
from mygo.vllm_plugin.disk.format import GROUP_BYTES, ChunkKey
from mygo.vllm_plugin.tiers.disk_order import AHEAD_BLOCKS, DiskOrder

LIMIT = 8

texts = st.lists(st.integers(0, 1), min_size=1, max_size=5)
groups = st.integers(0, 2)
picks = st.integers(0, 1_000)


def chunk(text: list[int], group: int) -> ChunkKey:
    return ChunkKey(path(text)[-1] + group.to_bytes(GROUP_BYTES, "big"))


def block_of(key: ChunkKey) -> bytes:
    return key[:-GROUP_BYTES]


class DiskOrderMachine(RuleBasedStateMachine):
    """The model: which chunks are in which state. ``leaving``: the rest of blocks that a chunk has left."""

    @initialize(
        policy=st.sampled_from(["lru", "pgdsf", "s3fifo", "arc", "forecast"]),
        found=st.lists(st.tuples(texts, groups), max_size=10),
        attached=st.booleans(),
    )
    def start(self, policy: str, found: list[tuple[list[int], int]], attached: bool) -> None:
        self.tree = knowledge_tree()
        self.shelf = Shelf(self.tree, Tier.DISK, make(policy, self.tree, 4 * LIMIT))
        self.order = order = DiskOrder(self.shelf)
        self.catalog = Catalog(LIMIT) if attached else Catalog(LIMIT, order)
        keys = list(dict.fromkeys(chunk(text, group) for text, group in found))
        beyond = self.catalog.adopt(OrderedDict.fromkeys(keys, 0.0))
        assert beyond == keys[: max(0, len(keys) - LIMIT)]
        self.idle = keys[len(beyond) :]
        self.known: list[ChunkKey] = []
        self.writing: list[ChunkKey] = []
        self.reading: list[ChunkKey] = []
        self.erasing = set(beyond)
        self.replaced: list[ChunkKey] = []
        self.leaving: list[ChunkKey] = []
        if attached:
            self.catalog.attach(order)
        self.begun = 0

    @rule(text=texts)
    def begin(self, text: list[int]) -> None:
        """A prompt that the tree knows from now on."""
        self.begun += 1
        self.tree.begin(f"r{self.begun}", path(text))
        self.tree.admitted(f"r{self.begun}", 0)
        self.tree.finished(f"r{self.begun}")

    # --- writing ---

    @rule(text=texts, group=groups)
    def begin_write(self, text: list[int], group: int) -> None:
        key = chunk(text, group)
        here = {*self.idle, *self.known, *self.writing, *self.erasing, *self.replaced}
        taken = len(self.idle) + len(self.known) + len(self.writing) + len(self.erasing)
        choices = self._choices()
        victims = self.catalog.begin_write(key)
        if key in here or taken > LIMIT or (taken == LIMIT and not choices):
            assert victims is None
            return
        assert victims is not None and len(victims) == (taken == LIMIT)
        for victim in victims:
            self._left(victim, choices)
            self.replaced.append(victim)
        self.writing.append(key)

    @precondition(lambda self: self.writing)
    @rule(pick=picks, ok=st.booleans())
    def end_write(self, pick: int, ok: bool) -> None:
        key = self.writing.pop(pick % len(self.writing))
        if ok:
            self.catalog.end_write(key, 0.0)
            self.known.append(key)
        else:
            self.catalog.abandon_write(key)

    @precondition(lambda self: self.replaced)
    @rule(pick=picks, ok=st.booleans())
    def replace(self, pick: int, ok: bool) -> None:
        key = self.replaced.pop(pick % len(self.replaced))
        if ok:
            self.catalog.replaced(key)
        elif self.catalog.restore(key):
            self.idle.insert(0, key)

    # --- reading ---

    @rule(text=texts, group=groups)
    def begin_read(self, text: list[int], group: int) -> None:
        key = chunk(text, group)
        begun = self.catalog.begin_read(key)
        assert begun == (key in {*self.idle, *self.known} and key not in self.reading)
        if begun:
            self.reading.append(key)
            self._use(key)

    @precondition(lambda self: self.reading)
    @rule(pick=picks, lost=st.booleans())
    def end_read(self, pick: int, lost: bool) -> None:
        key = self.reading.pop(pick % len(self.reading))
        assert self.catalog.end_read(key, lost=lost)
        if lost:
            self.known.remove(key)

    @rule(text=texts, group=groups)
    def touch(self, text: list[int], group: int) -> None:
        key = chunk(text, group)
        assert self.catalog.touch(key, 10.0, 1.0) <= (key in {*self.idle, *self.known})
        if key in self.idle:
            self._use(key)

    # --- leaving ---

    @rule(text=texts, group=groups)
    def purge(self, text: list[int], group: int) -> None:
        key = chunk(text, group)
        self.catalog.purge(key)
        for keys in (self.idle, self.known, self.writing, self.reading, self.leaving):
            if key in keys:
                keys.remove(key)
        self.erasing.add(key)

    @precondition(lambda self: self.erasing)
    @rule(pick=picks)
    def erased(self, pick: int) -> None:
        key = sorted(self.erasing)[pick % len(self.erasing)]
        self.catalog.erased(key)
        self.erasing.discard(key)

    @rule(count=st.integers(1, 3))
    def shrink(self, count: int) -> None:
        for _ in range(count):
            choices = self._choices()
            victims = self.catalog.shrink(1)
            assert len(victims) == bool(choices)
            for victim in victims:
                self._left(victim, choices)
                self.erasing.add(victim)

    @rule()
    def settle(self) -> None:
        self.order.settle()

    # --- the naive model ---

    def _use(self, key: ChunkKey) -> None:
        if key in self.idle:
            self.idle.remove(key)
            self.known.append(key)
        if key in self.leaving:
            self.leaving.remove(key)

    def _held(self) -> set[bytes]:
        """Blocks of which nothing has left."""
        return {block_of(key) for key in (*self.known, *self.writing) if key not in self.leaving}

    def _choices(self) -> set[ChunkKey]:
        """Chunks that may leave next."""
        if self.idle:
            return {self.idle[0]}
        if self.leaving:
            return set(self.leaving)
        used = {block_of(key) for key in (*self.writing, *self.reading)}
        blocks = willing(self.tree, self._held(), self._held() - used)
        return {key for key in self.known if block_of(key) in blocks}

    def _left(self, victim: ChunkKey, choices: set[ChunkKey]) -> None:
        assert victim in choices
        if victim in self.idle:
            self.idle.remove(victim)
            return
        self.known.remove(victim)
        if victim in self.leaving:
            self.leaving.remove(victim)
            return
        block = block_of(victim)
        rest = [key for key in self.known if block_of(key) == block]
        self.leaving += rest
        check_order(self.tree, [block], self._held())

    @invariant()
    def catalog_and_shelf_hold_what_the_model_holds(self) -> None:
        if not hasattr(self, "catalog"):
            return
        assert {*self.catalog.idle(), *self.catalog._known} == {*self.idle, *self.known}
        assert len(self.catalog) == len(self.idle) + len(self.known) + len(self.writing) + len(self.erasing)
        users = dict.fromkeys(self._held(), 0)
        for key in (*self.writing, *self.reading):
            users[block_of(key)] += 1
        if not self.order._came and not self.order._idle:
            assert self.shelf._users == users


TestDiskOrderMachine = DiskOrderMachine.TestCase
TestDiskOrderMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_disk_order_gives_up_some_blocks_ahead_and_takes_back_those_that_are_read() -> None:
    tree = knowledge_tree()
    shelf = Shelf(tree, Tier.DISK, make("lru", tree, 1_000))
    order = DiskOrder(shelf)
    text = list(range(4 * AHEAD_BLOCKS)) * 32
    blocks = path(text)
    tree.begin("r", blocks)
    tree.finished("r")
    keys = [ChunkKey(block + bytes(GROUP_BYTES)) for block in blocks]
    for key in keys:
        order.put(key)
    for key in keys:
        order.unlock(key)
    assert order.evict(1) == [keys[-1]]
    assert len(shelf) == len(keys) - AHEAD_BLOCKS
    order.lock(keys[-2])
    assert order.evict(1) == [keys[-3]]
    order.settle()
    assert shelf.holds(blocks[-2])
    assert order.evict(len(keys) - 2) is None
