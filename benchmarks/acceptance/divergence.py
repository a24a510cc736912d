"""PURE. Where two greedy answers part, and how sure the reference was there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reference:
    """Plain vLLM's answer to one prompt."""

    token_ids: tuple[int, ...]
    gaps: tuple[float, ...]
    """Per token: logprob of the best minus that of the second best."""


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: int
    condition: str
    """Under which circumstances it was generated, say ``cold, alone``."""
    token_ids: tuple[int, ...]


def first_divergence(reference: Sequence[int], answer: Sequence[int]) -> int | None:
    """The first position at which they differ; None if they are the same.

    If one is the beginning of the other, it is the position where the shorter one ended.
    """
    for position, (expected, found) in enumerate(zip(reference, answer, strict=False)):
        if expected != found:
            return position
    return None if len(reference) == len(answer) else min(len(reference), len(answer))


def gap_at(reference: Reference, position: int) -> float:
    """The reference's own doubt at a position, in logprob; infinite where it had already ended.

    An answer that goes on behind the reference's last token is no rounding difference.
    """
    return reference.gaps[position] if position < len(reference.gaps) else float("inf")


@dataclass
class Tally:
    """Counts of one condition."""

    answers: int = 0
    identical: int = 0
    largest_gap: float = 0.0
    gaps: list[float] = field(default_factory=list)


def compare(references: Sequence[Reference], answers: Iterable[Answer]) -> dict[str, Tally]:
    """Condition -> how its answers compare with the references of their prompts."""
    tallies: dict[str, Tally] = {}
    for answer in answers:
        tally = tallies.setdefault(answer.condition, Tally())
        tally.answers += 1
        reference = references[answer.prompt]
        position = first_divergence(reference.token_ids, answer.token_ids)
        if position is None:
            tally.identical += 1
        else:
            tally.gaps.append(gap_at(reference, position))
            tally.largest_gap = max(tally.gaps)
    return tallies


def missing(answers: Sequence[Answer], conditions: Sequence[str], prompts: int) -> dict[str, int]:
    """Condition -> prompts that no answer was given to under it; only those that lack some."""
    met: Counter[str] = Counter()
    met.update(condition for _, condition in {(answer.prompt, answer.condition) for answer in answers})
    return {name: prompts - met[name] for name in conditions if met[name] < prompts}


def as_figures(tallies: dict[str, Tally]) -> dict[str, Any]:
    return {
        name: {
            "answers": tally.answers,
            "identical": tally.identical,
            "largest_gap": round(tally.largest_gap, 5),
        }
        for name, tally in sorted(tallies.items())
    }
