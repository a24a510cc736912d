"""Reading ahead for waiting requests: each once, in their order, and never when there is no room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from vllm.v1.kv_offload.base import LookupResult, OffloadKey, ReqContext, make_offload_key

from mygo.vllm_plugin.disk.tier import ReadDeadline
from mygo.vllm_plugin.tiers.prefetch import WINDOW_REQUESTS, Prefetch

picks = st.integers(0, 1_000)


class Host:
    """Stands for vLLM's manager: a block that is looked for is read, if there is room for it."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[tuple[str, OffloadKey]] = []
        self.refused: set[OffloadKey] = set()
        """These are gone from the disk."""

    def lookup(self, key: OffloadKey, context: ReqContext) -> LookupResult:
        self.asked.append((context.req_id, key))
        if key in self.refused:
            return LookupResult.MISS
        assert self.room > 0, "something was pushed out for a request that only waits"
        self.room -= 1
        return LookupResult.HIT_PENDING


class Waiting:
    def __init__(self, name: str, keys: list[OffloadKey] | None, wait_s: float) -> None:
        self.context = ReqContext(req_id=name)
        self.keys = keys
        """None: vLLM must not look for this one."""
        self.wait_s = wait_s


class PrefetchMachine(RuleBasedStateMachine):
    @initialize(room=st.integers(0, 20))
    def start(self, room: int) -> None:
        self.now_s = 0.0
        self.host = Host(room)
        self.queue: dict[str, Waiting] = {}
        self.served: set[str] = set()
        """Requests that are waiting and had their turn here."""
        self.begun = 0
        self.prefetch = Prefetch(
            self.host,  # type: ignore[arg-type]
            self._ids,
            self._wanted,
            lambda: self.host.room,
            lambda name: self.queue[name].wait_s,
            lambda: self.now_s,
        )

    def _ids(self) -> Iterator[str]:
        return iter(self.queue)

    def _wanted(self, name: str) -> tuple[ReqContext, list[OffloadKey]] | None:
        waiting = self.queue[name]
        return None if waiting.keys is None else (waiting.context, waiting.keys)

    @rule(blocks=st.one_of(st.none(), st.integers(0, 6)), wait_s=st.floats(0, 5), gone=st.booleans())
    def come(self, blocks: int | None, wait_s: float, gone: bool) -> None:
        self.begun += 1
        name = f"r{self.begun}"
        keys = None
        if blocks is not None:
            keys = [make_offload_key(f"{name} {number}".encode(), 0) for number in range(blocks)]
        self.queue[name] = Waiting(name, keys, wait_s)
        if gone and keys:
            self.host.refused.add(keys[len(keys) // 2])

    @precondition(lambda self: self.queue)
    @rule(pick=picks)
    def leave(self, pick: int) -> None:
        """Admitted or aborted."""
        name = list(self.queue)[pick % len(self.queue)]
        waiting = self.queue.pop(name)
        began = sum(name == asked and key not in self.host.refused for asked, key in self.host.asked)
        assert self.prefetch.ended(name) == began
        assert self.prefetch.ended(name) == 0, "it is told once"
        assert waiting.keys is not None or not began
        self.served.discard(name)

    @rule(blocks=st.integers(0, 6))
    def make_room(self, blocks: int) -> None:
        self.host.room += blocks

    @rule(seconds=st.floats(0.001, 5))
    def step(self, seconds: float) -> None:
        self.now_s += seconds
        before = len(self.host.asked)
        room = self.host.room
        window = list(self.queue)[:WINDOW_REQUESTS]
        self.prefetch.step()
        asked = self.host.asked[before:]
        expected: list[tuple[str, OffloadKey]] = []
        admitted_s = self.now_s
        for name in window:
            waiting = self.queue[name]
            if name not in self.served:
                keys = waiting.keys
                if keys is not None and len(keys) > room:
                    break  # and nobody behind it
                for key in keys or ():
                    expected.append((name, key))
                    if key in self.host.refused:
                        break
                    room -= 1
                if keys is not None:
                    deadline = waiting.context.get_state(ReadDeadline)
                    assert deadline == ReadDeadline(admitted_s)
                self.served.add(name)
            admitted_s += waiting.wait_s
        assert asked == expected

    @invariant()
    def each_block_is_asked_for_once(self) -> None:
        if hasattr(self, "host"):
            assert len(self.host.asked) == len(set(self.host.asked))


TestPrefetchMachine = PrefetchMachine.TestCase
TestPrefetchMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_prefetch_asks_nothing_of_what_is_far_back_in_the_queue() -> None:
    names = [f"r{number}" for number in range(3 * WINDOW_REQUESTS)]
    contexts: dict[str, Any] = {name: ReqContext(req_id=name) for name in names}
    host = Host(room=1_000)
    prefetch = Prefetch(
        host,  # type: ignore[arg-type]
        lambda: iter(names),
        lambda name: (contexts[name], [make_offload_key(name.encode(), 0)]),
        lambda: host.room,
        lambda name: 1.0,
        lambda: 0.0,
    )
    prefetch.step()
    assert [name for name, _ in host.asked] == names[:WINDOW_REQUESTS]
    del names[0]
    prefetch.step()
    assert [name for name, _ in host.asked[WINDOW_REQUESTS:]] == [f"r{WINDOW_REQUESTS}"]
