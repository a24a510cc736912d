"""What the outcomes say: a row per way of answering, and the repair to choose.

Document order ``cache`` has a row, too: it costs no exactness, but it changes answers, and who considers
blending should see by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean
from typing import Any

from mygo.blend.calibrate import LEAST_ROWS, Calibration, Row, calibrate, upper_mean
from mygo.blend.selection import Method
from mygo.calibration.paired import Pair, pairs
from mygo.calibration.records import CACHE_ORDER, EXACT, Outcome


@dataclass(frozen=True, slots=True)
class Line:
    """Means over questions; upper ends hold the mean with 95 % (bootstrap)."""

    documents: int
    """That each of its questions takes."""
    method: str
    share: float
    questions: int
    computed_share: float
    kl: float
    kl_upper: float
    gold_nats: float
    gold_nats_more: float
    gold_nats_more_upper: float
    f1: float
    exact_match: float
    same: float


@dataclass(frozen=True, slots=True)
class Report:
    lines: tuple[Line, ...]
    calibration: Calibration
    """Over all questions."""
    kl_bound: float
    gold_nats_bound: float
    too_few: tuple[str, ...]
    """Ways that were not considered, because too few questions were answered so."""
    pairs: tuple[Pair, ...] = ()
    """Other ways to choose tokens, against the first ones."""

    def yaml(self) -> str:
        """For the configuration file."""
        chosen = self.calibration.chosen
        if chosen is None:
            return "reuse:\n  mode: exact\n"
        # the guard raises a share by multiples of it
        note = "" if chosen.alpha else "  # the quality guard cannot raise 0: it can only answer exactly"
        return (
            f"reuse:\n  mode: blend\n  repair_share: {chosen.alpha:g}{note}\n  floor_tokens: 0\n"
            f"  method: {chosen.method.value}\n"
            f"  kl_bound: {self.kl_bound:g}\n"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "kl_bound": self.kl_bound,
            "gold_nats_bound": self.gold_nats_bound,
            "chosen": None if self.calibration.chosen is None else asdict(self.calibration.chosen),
            "settings": [asdict(each) for each in self.calibration.settings],
            "lines": [asdict(line) for line in self.lines],
            "pairs": [asdict(pair) for pair in self.pairs],
            "too_few_questions": list(self.too_few),
        }


def report(outcomes: Sequence[Outcome], *, kl_bound: float, gold_nats_bound: float) -> Report:
    """Raises BadRequest if no way of answering has enough questions."""
    ways: dict[tuple[str, float], list[Outcome]] = {}
    for outcome in outcomes:
        ways.setdefault((outcome.method, outcome.share), []).append(outcome)
    rng = Random(0)
    lines = [
        _line(documents, method, share, group, rng)
        for documents in sorted({outcome.documents for outcome in outcomes})
        for (method, share), all_of in sorted(ways.items(), key=lambda way: (way[0][0] != EXACT, way[0]))
        if (group := [each for each in all_of if each.documents == documents])
    ]
    blended = {way: found for way, found in ways.items() if way[0] not in (EXACT, CACHE_ORDER)}
    rows = [
        Row(Method(method), share, each.first_token_kl, each.gold_nats_more, each.computed_share)
        for (method, share), found in blended.items()
        if len(found) >= LEAST_ROWS
        for each in found
    ]
    few = [f"{method} {share:g}" for (method, share), found in blended.items() if len(found) < LEAST_ROWS]
    found = calibrate(rows, kl_bound=kl_bound, gold_nats_bound=gold_nats_bound, rng=Random(0))
    return Report(tuple(lines), found, kl_bound, gold_nats_bound, tuple(few), pairs(outcomes))


def _line(documents: int, method: str, share: float, group: Sequence[Outcome], rng: Random) -> Line:
    def mean(name: str) -> float:
        return fmean(float(getattr(each, name)) for each in group)

    def upper(name: str) -> float:
        return upper_mean([float(getattr(each, name)) for each in group], rng)

    return Line(
        documents=documents,
        method=method,
        share=share,
        questions=len(group),
        computed_share=mean("computed_share"),
        kl=mean("first_token_kl"),
        kl_upper=upper("first_token_kl"),
        gold_nats=mean("gold_nats"),
        gold_nats_more=mean("gold_nats_more"),
        gold_nats_more_upper=upper("gold_nats_more"),
        f1=mean("f1"),
        exact_match=mean("exact_match"),
        same=mean("same"),
    )
