"""Loads of which nobody has heard yet whether they came, and the requests that build on them.

A worker may find that a chunk is gone when it is to load it. vLLM then computes the prompt anew; but by then
other requests may share the blocks that the chunk should have filled, and have computed more behind them. So
nothing of any of them is stored in slower tiers until the steps that load have ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mygo.vllm_plugin.chunks.layout import Layout
from mygo.vllm_plugin.device_cache import DeviceCache


@dataclass(eq=False, slots=True)
class Loading:
    """One admission of a request that loads."""

    request: Any
    layout: Layout
    first_block: int
    """Where its prompt depends on what is loaded, from there on."""
    first_hash: bytes | None
    builders: dict[str, Any] = field(default_factory=dict)
    """By their ids: the request itself, and those that may share its blocks."""
    steps: int = 0
    """Under way, that load something for it."""
    counted_tokens: int = 0
    """By the scheduler, once the last of them is computed."""
    is_over: bool = False
    """No further step will load for it."""

    @property
    def was_set_back(self) -> bool:
        """The scheduler counts less as computed than it has scheduled, or counts no more."""
        return bool(self.request.is_finished() or self.request.num_computed_tokens < self.counted_tokens)


class Unheard:
    """``hold_back(request_id, is_held=...)`` is told of whom nothing may be stored, and until when."""

    def __init__(self, cache: DeviceCache, hold_back: Callable[..., None]) -> None:
        self._cache = cache
        self._hold_back = hold_back
        self._loading: list[Loading] = []
        self._steps: deque[list[Loading]] = deque()
        """Under way, the oldest first: who loads in each."""

    def __len__(self) -> int:
        return len(self._loading)

    def __repr__(self) -> str:
        return f"Unheard(loading={[each.request.request_id for each in self._loading]})"

    def admitted(self, request: Any, layout: Layout | None) -> None:
        """The request got its blocks, some of which may be those of others. ``layout``: what it loads."""
        if not self._loading and layout is None:
            return
        request_id = request.request_id
        self.ends(request_id)
        for each in self._loading:
            # hashes chain, so whoever shares any block behind this one shares this one
            if each.first_hash is not None and each.first_hash == self._cache.hash_at(
                request, each.first_block
            ):
                each.builders[request_id] = request
        if layout is not None:
            block = layout.cached_tokens // self._cache.block_tokens
            loading = Loading(
                request, layout, block, self._cache.hash_at(request, block), {request_id: request}
            )
            self._loading.append(loading)
        self._hold_back(request_id, is_held=self._is_builder(request_id))

    def planned(self, counted_tokens: Mapping[str, int], loads: Iterable[str]) -> None:
        """A step is scheduled; ``counted_tokens``: what the scheduler counts as computed behind it, by the
        request. ``loads``: for whom it loads."""
        loads = set(loads)
        step: list[Loading] = []
        for each in self._loading:
            tokens = counted_tokens.get(each.request.request_id)
            if each.is_over or tokens is None:
                continue
            if each.request.request_id in loads:
                step.append(each)
                each.steps += 1
                each.counted_tokens = tokens
            each.is_over = not each.layout.covers(tokens)
        self._steps.append(step)

    def lost(self) -> list[Loading]:
        """Something that the oldest step was to load was not there: for whom. The scheduler knows already,
        and has set them back."""
        return [each for each in self._steps[0] if each.was_set_back] if self._steps else []

    def step_ended(self) -> None:
        """The oldest step has ended, and what it did not load was told."""
        for each in self._steps.popleft() if self._steps else ():
            each.steps -= 1
        self._settle()

    def ends(self, request_id: str) -> None:
        """The request was preempted or set back, or is over: it loads no more.

        If it is over, nothing of it may ever be stored: what it would have loaded yet counts as computed.
        """
        for each in self._loading:
            if each.request.request_id == request_id and not each.is_over:
                each.is_over = True
                del each.builders[request_id]
                if not each.request.is_finished() and not self._is_builder(request_id):
                    self._hold_back(request_id, is_held=False)
        self._settle()

    def _settle(self) -> None:
        ended = [each for each in self._loading if each.is_over and not each.steps]
        if not ended:
            return
        self._loading = [each for each in self._loading if each not in ended]
        for request_id in {request_id for each in ended for request_id in each.builders}:
            if not self._is_builder(request_id):
                self._hold_back(request_id, is_held=False)

    def _is_builder(self, request_id: str) -> bool:
        return any(request_id in each.builders for each in self._loading)
