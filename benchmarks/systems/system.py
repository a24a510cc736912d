"""What a system under test is: something that starts as a server and answers a prompt over HTTP.

A row of the benchmark is a ``System``; the registry is in ``benchmarks/systems/__init__.py``. Every system
gets the same ``Settings`` and the same ``Query``, and must say of every answer what ``Reply`` asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mygo.config import ModelConfig
from mygo.types import Prompt


@dataclass(frozen=True, slots=True)
class Throttle:
    """Seconds that a token's KV takes from a tier to the device, to imitate a named GPU."""

    gpu: str
    host_s_per_token: float
    disk_s_per_token: float


@dataclass(frozen=True, slots=True)
class Settings:
    """What all systems of a run have in common."""

    model: ModelConfig
    """Model, type, device KV bytes per worker, block size and step sizes."""
    model_path: Path
    cache_dir: Path
    """Where converted models and measured profiles are kept."""
    cores: tuple[int, ...]
    """Cores that engines compute on: the last one of a single worker, one each of several."""
    host_kv_bytes: int
    """Host tier of the systems that have one."""
    kv_bytes_per_token: int
    tenants: tuple[str, ...]
    throttle: Throttle | None = None

    def worker_cores(self, workers: int) -> tuple[int, ...]:
        """The cores of ``workers`` single-core workers: the last ones, as core 0 serves interrupts."""
        return self.cores[-workers:]

    def spare_cores(self, workers: int) -> tuple[int, ...]:
        """Where everything but their engines runs: the other cores, or all if there are no others."""
        return self.cores[:-workers] or self.cores


@dataclass(frozen=True, slots=True)
class Query:
    """One request, laid out once for all systems."""

    number: int
    arrival_s: float
    """In the trace."""
    tenant: str
    messages: tuple[tuple[str, str], ...]
    """(role, text), the question last."""
    documents: tuple[tuple[str, str], ...]
    """(id, text), as ranked."""
    prompt: Prompt
    """The same messages and documents as segments of token ids, in ranked order."""
    output_tokens: int
    """Exactly so many are generated."""

    @property
    def question(self) -> str:
        return self.messages[-1][1]


@dataclass(slots=True)
class Reply:
    """What came back, with the client's times by ``time.perf_counter``."""

    token_times_s: list[float]
    """When each chunk of tokens arrived; the first one is the first token."""
    output_ids: list[int]
    prompt_ids: list[int]
    """The ids that the server says it was given or built."""
    cached_tokens: int
    """Prompt tokens that were not computed, from whatever tier."""
    queue_s: float
    """In the engine, before its first step for this request; loading from slower tiers counts here."""
    prefill_s: float
    """From then to the first token, in the engine."""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the server started; the runner takes differences over a round."""

    cached_tokens: Mapping[str, float] = field(default_factory=dict)
    """By tier: device, host, disk. Empty if the system has only a device tier."""
    load_s: float = 0.0
    """Seconds that copies from a slower tier to the device took."""


class Server(Protocol):
    """A running system."""

    engine_title: str
    """How the titles of the processes begin that compute: these have their cores for themselves."""

    @property
    def root_pids(self) -> tuple[int, ...]:
        """Its processes are these and their descendants."""
        ...

    async def ask(self, query: Query) -> Reply:
        """Serve one query greedily, ``output_tokens`` long. Raises RuntimeError with the server's words if
        it fails or if its prompt is not the query's."""
        ...

    async def counters(self) -> Counters: ...

    def stop(self) -> None:
        """End its processes; never raises for one that has ended."""
        ...


class System(Protocol):
    """A row of the table. Its attributes are constants; ``start`` may be called several times."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str:
        """One line for the report: what it is, and what of it is not stock."""
        ...

    @property
    def workers(self) -> int: ...

    @property
    def memory_gb(self) -> float:
        """About what it takes beside KV."""
        ...

    @property
    def host_tier(self) -> bool:
        """True if it also takes the settings' ``host_kv_bytes``."""
        ...

    @property
    def keeps_order(self) -> bool:
        """False if it may put the documents into another order than they were ranked in."""
        ...

    def problem(self) -> str | None:
        """Why it cannot run here and how to change that; None if it can."""
        ...

    def start(self, folder: Path, settings: Settings) -> Server:
        """Start it and wait until it serves; logs go into ``folder``, which is empty and its own.

        Raises RuntimeError with the end of its log if it does not come up.
        """
        ...
