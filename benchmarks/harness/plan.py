"""What is asked when and of whom: loads, rounds, their order, and groups of systems that fit in memory.

Pure: nothing here reads a clock or draws from global randomness.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mygo.errors import ConfigError

_LOAD = re.compile(r"(?P<kind>closed|open):(?P<value>\d+(?:\.\d+)?)(?P<share>%?)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """How requests arrive.

    ``closed``: ``value`` requests are always open. ``open``: they arrive as in the trace, scaled to a mean
    of ``value`` requests/s, or of ``value`` per cent of what the baseline serves one after the other.
    """

    kind: Literal["closed", "open"]
    value: float
    relative: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.value:g}{'pct' if self.relative else ''}"

    def rate(self, baseline_rate: float | None) -> float | None:
        """Requests/s to offer; None for a closed loop. ``baseline_rate`` is what the baseline serves; a load
        that is no share of it needs none."""
        if self.kind == "closed":
            return None
        if not self.relative:
            return self.value
        assert baseline_rate is not None
        return self.value / 100 * baseline_rate


def parse_load(text: str) -> Load:
    """``closed:1``, ``open:0.5`` (requests/s) or ``open:60%``. Raises ConfigError."""
    found = _LOAD.fullmatch(text)
    value = float(found["value"]) if found else 0.0
    if found is None or not value or (found["kind"] == "closed" and (found["share"] or value != int(value))):
        raise ConfigError(
            f"--load {text}: give closed:N (N requests at a time), open:R (R requests per second) or "
            "open:P% (of what the baseline serves one after the other)"
        )
    return Load("closed" if found["kind"] == "closed" else "open", value, bool(found["share"]))


def check_loads(loads: Sequence[Load]) -> None:
    """Raises ConfigError for a load given twice."""
    for index, load in enumerate(loads):
        if load in loads[:index]:
            raise ConfigError(f"load {load.name} is given twice: leave one of them out")


@dataclass(frozen=True, slots=True)
class Member:
    """A system in a group. The same system may appear again: in another group, or against itself."""

    label: str
    """Unique in the run: ``vllm``, ``vllm#2`` beside itself, ``vllm@2`` repeated in group 2."""
    system: str
    group: int
    """From 1."""


Groups = list[list[Member]]


def groups(
    systems: Sequence[str], baseline: str, memory_gb: Mapping[str, float], available_gb: float
) -> Groups:
    """Systems that are up together, each group with the baseline at its head.

    Fills one group after the other up to ``available_gb``. Raises ConfigError if the baseline and one
    system do not fit together.
    """
    rest = list(systems)
    rest.remove(baseline)
    seen: dict[str, int] = {baseline: 1}
    found: list[list[Member]] = []
    while rest or not found:
        number = len(found) + 1
        head = baseline if number == 1 else f"{baseline}@{number}"
        members = [Member(head, baseline, number)]
        used_gb = memory_gb[baseline]
        while rest and used_gb + memory_gb[rest[0]] <= available_gb:
            name = rest.pop(0)
            used_gb += memory_gb[name]
            seen[name] = seen.get(name, 0) + 1
            members.append(Member(name if seen[name] == 1 else f"{name}#{seen[name]}", name, number))
        if rest and len(members) == 1:
            need_gb = memory_gb[baseline] + memory_gb[rest[0]]
            raise ConfigError(
                f"{baseline} and {rest[0]} take about {need_gb:.1f} GB together and {available_gb:.1f} GB "
                "are free: end other programs, or lower --kv-tokens"
            )
        found.append(members)
    return found


def rounds(requests: Sequence[T], per_round: int) -> list[Sequence[T]]:
    """The trace in stretches of ``per_round``; the last may be shorter."""
    return [requests[start : start + per_round] for start in range(0, len(requests), per_round)]


def order(members: Sequence[Member], *, seed: int, load: str, round_number: int) -> list[Member]:
    """Who serves a round when: another shuffle for each round, the same for the same seed."""
    shuffled = list(members)
    random.Random(f"{seed} {load} {round_number}").shuffle(shuffled)
    return shuffled


def send_times_s(arrivals_s: Sequence[float], trace_rate: float, rate: float) -> list[float]:
    """When to send a round's requests, from its start on, if the trace's mean of ``trace_rate`` requests/s
    is scaled to ``rate``. The first is sent at once."""
    return [(arrival_s - arrivals_s[0]) * trace_rate / rate for arrival_s in arrivals_s]


def refill(prompt_tokens: Sequence[int], capacity_tokens: int) -> int:
    """How many of the last requests to replay after an interruption, so that a cache of ``capacity_tokens``
    holds about what it held: as many as have twice the tokens."""
    replayed = tokens = 0
    for each in reversed(prompt_tokens):
        if tokens >= 2 * capacity_tokens:
            break
        tokens += each
        replayed += 1
    return replayed
