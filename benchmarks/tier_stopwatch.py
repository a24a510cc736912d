"""How long an engine's scheduler is inside the plugin's hooks, and whose code it is in there.

From the hooks MyGO calls vLLM's offloading, which calls MyGO's replacement and disk, and so on.
``telling_apart`` watches each of these borders: time counts for whoever runs, without what they call of the
other's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler import OffloadingConnectorScheduler
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.kv_offload.tiering.manager import CPUPrimaryTierOffloadingManager, TieringOffloadingManager

from mygo.emulation.disk import EmulatedDisk
from mygo.vllm_plugin.tiers.host_policy import TreeCachePolicy
from mygo.vllm_plugin.tiers.scheduler import TierScheduler

_THEIRS = (
    OffloadingConnectorScheduler,
    TieringOffloadingManager,
    CPUPrimaryTierOffloadingManager,
    CPUOffloadingManager,
)
_OURS = (TierScheduler, TreeCachePolicy, EmulatedDisk)
_CALLED_ACROSS = ("_build_store_jobs", "_get_num_free_chunks", "_free_chunk")
"""Besides everything without an underscore."""


@dataclass
class Sample:
    """Seconds of one step, or of one request's share of several."""

    step_s: float = 0.0
    hooks_s: dict[str, float] = field(default_factory=dict)
    offloading_s: float = 0.0
    """Of the hooks' time, that in vLLM's offloading; 0 if it was not told apart."""

    @property
    def in_hooks_s(self) -> float:
        return sum(self.hooks_s.values())

    @property
    def own_s(self) -> float:
        return self.in_hooks_s - self.offloading_s


class Stopwatch:
    """Adds up the time inside wrapped functions; what they call of each other counts once."""

    def __init__(self) -> None:
        self.sample = Sample()
        self._inside = False

    def wrap(self, owner: Any, names: Sequence[str]) -> None:
        for name in names:
            setattr(owner, name, self._timed(name, getattr(owner, name)))

    def wrap_step(self, owner: Any, names: Sequence[str]) -> None:
        for name in names:
            setattr(owner, name, self._timed_step(getattr(owner, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            self._inside = True
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - began
                self._inside = False
                self.sample.hooks_s[name] = self.sample.hooks_s.get(name, 0.0) + seconds

        return timed

    def _timed_step(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.sample.step_s += time.perf_counter() - began

        return timed

    @contextmanager
    def measuring(self) -> Iterator[Sample]:
        """Everything until the end of the block."""
        self.sample = sample = Sample()
        yield sample

    @contextmanager
    def telling_apart(self) -> Iterator[Sample]:
        """As ``measuring``, and whose time it is. Each border that is crossed takes half a microsecond."""
        borders = _Borders(self)
        changed: list[tuple[type, str, Any]] = []
        for theirs, classes in ((True, _THEIRS), (False, _OURS)):
            for owner in classes:
                for name, call in list(vars(owner).items()):
                    crosses = not name.startswith("_") or name in _CALLED_ACROSS
                    if isinstance(call, FunctionType) and crosses:
                        changed.append((owner, name, call))
                        setattr(owner, name, borders.crossed(call, theirs=theirs))
        try:
            with self.measuring() as sample:
                yield sample
        finally:
            for owner, name, call in changed:
                setattr(owner, name, call)
            sample.offloading_s = borders.theirs_s

    @property
    def is_inside(self) -> bool:
        """A hook is being called."""
        return self._inside


class _Borders:
    """Between MyGO's code and vLLM's offloading, inside the hooks."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._theirs = False
        self._since_s = 0.0
        self.theirs_s = 0.0

    def crossed(self, call: Callable[..., Any], *, theirs: bool) -> Callable[..., Any]:
        def crossing(*args: Any, **kwargs: Any) -> Any:
            if self._theirs is theirs or not self._stopwatch.is_inside:
                return call(*args, **kwargs)
            self._cross()
            try:
                return call(*args, **kwargs)
            finally:
                self._cross()

        return crossing

    def _cross(self) -> None:
        now_s = time.perf_counter()
        if self._theirs:
            self.theirs_s += now_s - self._since_s
        self._theirs = not self._theirs
        self._since_s = now_s
