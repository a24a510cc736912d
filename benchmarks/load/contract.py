"""What a load test may not show, whatever was killed meanwhile. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from benchmarks.load.local import ROLES, Kill, Memory
from benchmarks.load.samples import Outcome, Sample

CUT_WITHIN_S = 30.0
"""A stream that ends with an error this long after a kill was cut by it: hung workers are found in less."""
GROWTH_SHARE = 0.03
GROWTH_BYTES = 24_000_000
"""Less growth than either, from one quarter of a soak to the next, is noise."""
LEVELLING = 0.5
"""Memory levels off if it grows less than this share of what it grew in the quarter before."""
SOAK_MEASUREMENTS = 12
"""Three per quarter."""

_BREACHES = {
    Outcome.REFUSED: "were refused: the trace does not fit this cluster (try --token-scale below 1)",
    Outcome.FAILED: "failed with a status that promises nothing",
    Outcome.EARLY: "failed in a stream that had not begun, in place of being served elsewhere",
    Outcome.BROKEN: "ended without a finish reason and without an error",
    Outcome.UNREACHABLE: "got no answer at all",
    Outcome.TIMEOUT: "hung",
}
_CUTTING = ("worker", "engine")
"""Whose death may end a stream that has begun."""


def breaches(samples: Sequence[Sample], sent: int, kills: Sequence[Kill]) -> list[str]:
    """What broke the fault contract, in sentences; empty if it was kept.

    Requests that had not begun to stream are served, by whomever; streams that had begun end with a clear
    error, and only where a worker was killed just before; nothing hangs; each request ends once. While
    nothing is killed, a cluster may shed load that is too much for it.
    """
    found: list[str] = []
    if sent != len(samples) or len({each.number for each in samples}) != len(samples):
        found.append(f"{sent} requests were sent, {len(samples)} ended: they must be as many")
    by_outcome: dict[Outcome, list[Sample]] = {}
    for each in samples:
        by_outcome.setdefault(each.outcome, []).append(each)
    for outcome, words in _BREACHES.items():
        if some := by_outcome.get(outcome):
            found.append(f"{len(some)} requests {words}: {_example(some)}")
    if kills and (shed := by_outcome.get(Outcome.SHED)):
        found.append(
            f"{len(shed)} requests were shed in place of being served elsewhere (or the rate was too high "
            f"for what was left): {_example(shed)}"
        )
    cuts = by_outcome.get(Outcome.CUT, [])
    if unexplained := [each for each in cuts if not _follows_a_kill(each, kills)]:
        found.append(f"{len(unexplained)} streams were cut though no worker died: {_example(unexplained)}")
    if mute := [each for each in cuts if not each.error.strip()]:
        found.append(f"{len(mute)} streams were cut without words: request {mute[0].number}")
    found.extend(
        f"the cluster was not whole again after the {each.role} (pid {each.pid}) was killed"
        for each in kills
        if each.recovered_s is None
    )
    return found


def growth(measured: Sequence[Memory], kills: Sequence[Kill] = ()) -> list[str]:
    """The labels whose processes grew throughout a soak, in sentences; empty if all levelled off.

    The first quarter warms up. From then on the median of each quarter is compared with the one before:
    caches that fill grow less and less, leaks go on. Roles of which processes were killed are left out: what
    starts anew fills its caches anew.
    """
    if len(measured) < SOAK_MEASUREMENTS:
        return [
            f"memory was measured {len(measured)} times: a soak needs {SOAK_MEASUREMENTS}; make it longer"
        ]
    found: list[str] = []
    restarted = tuple(ROLES[each.role] for each in kills)
    for label in sorted({label for each in measured for label in each.pss_bytes}):
        if label.startswith(restarted):
            continue
        sizes = np.array([each.pss_bytes.get(label, 0) for each in measured], dtype=float)
        second, third, fourth = (float(np.median(part)) for part in np.array_split(sizes, 4)[1:])
        grew = fourth - third
        noise = max(GROWTH_BYTES, GROWTH_SHARE * third)
        if grew > noise and grew > LEVELLING * (third - second):
            found.append(
                f"{label} still grows: {second / 1e6:.0f}, {third / 1e6:.0f}, {fourth / 1e6:.0f} MB in the "
                "second, third and last quarter"
            )
    return found


def _follows_a_kill(sample: Sample, kills: Sequence[Kill]) -> bool:
    return any(each.role in _CUTTING and 0 <= sample.ended_s - each.at_s <= CUT_WITHIN_S for each in kills)


def _example(samples: Sequence[Sample]) -> str:
    (words, _), *_ = Counter(each.error for each in samples).most_common(1)
    return f"“{words}”, such as request {next(each.number for each in samples if each.error == words)}"
