from __future__ import annotations

from collections.abc import Sequence

import pytest

from mygo.blend.track import RECENT, Track
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Divergence

A, B, C = (DocumentTag(name) for name in "ABC")
BOUND = 0.12


def track(*observed: tuple[float, Sequence[DocumentTag]]) -> Track:
    one = Track.begin(0, BOUND, 1.0, harm_error=0.01, proof_error=0.05)
    for kl, documents in observed:
        one.observe(Divergence(kl, 1.0, 1.0), documents)
    return one


def test_track_is_harmful_or_proven_by_what_it_saw() -> None:
    assert (track().harmful, track().proven, track().mean_kl) == (False, False, 0.0)
    bad = track(*[(0.5, [A])] * 20)
    assert (bad.harmful, bad.proven) == (True, False)
    good = track(*[(0.01, [A])] * 80)
    assert (good.harmful, good.proven) == (False, True)
    assert good.mean_kl == pytest.approx(0.01)


@pytest.mark.parametrize("kl", [0.0, 5.0])
def test_evidence_stays_finite_when_the_same_is_seen_for_ever(kl: float) -> None:
    one = track(*[(kl, [A])] * 20_000)
    assert (one.proven, one.harmful) == (kl == 0, kl > 0)
    assert max(one.harm.evidence, one.proof.evidence) < 10_000
    assert one.count == 20_000


def test_track_counts_what_it_saw_clipped() -> None:
    one = track((7.0, [A]), (0.5, [B]))
    assert (one.kl_sum, list(one.recent)) == (1.5, [(1.0, (A,)), (0.5, (B,))])


def test_culprit_is_the_document_without_which_the_bound_is_kept() -> None:
    good = [(0.05, [B, C])] * 10
    assert track(*good, *[(0.8, [A, B])] * 5).culprit(BOUND) == A
    assert track(*good).culprit(BOUND) is None


def test_culprit_is_nobody_when_the_rest_is_as_bad() -> None:
    assert track(*[(0.8, [A, B])] * 5, *[(0.4, [B, C])] * 10).culprit(BOUND) is None


def test_culprit_is_nobody_when_a_document_was_in_every_request() -> None:
    assert track(*[(0.8, [A])] * 20, *[(0.05, [B])] * 4).culprit(BOUND) is None
    assert track(*[(0.8, [A])] * 20, *[(0.05, [B])] * 5).culprit(BOUND) == A


def test_culprit_is_nobody_when_it_was_seen_too_seldom_or_is_not_much_worse() -> None:
    good = [(0.05, [B, C])] * 10
    assert track(*good, *[(0.8, [A])] * 4).culprit(BOUND) is None
    assert track(*good, *[(0.23, [A])] * 20).culprit(BOUND) is None
    assert track(*good, *[(0.25, [A])] * 20).culprit(BOUND) == A


def test_culprit_is_found_among_the_recent_only() -> None:
    assert track(*[(0.8, [A])] * 20, *[(0.05, [B])] * RECENT).culprit(BOUND) is None


def test_track_is_good_without_a_document_when_the_rest_keeps_the_bound() -> None:
    bad, good, few = [(0.8, [A, B])] * 5, [(0.05, [C])] * 5, [(0.05, [C])] * 4
    assert track(*bad, *good).good_without(A, BOUND)
    assert not track(*bad, *good).good_without(C, BOUND)
    assert not track(*bad, *few).good_without(A, BOUND)


def test_track_forgets_what_it_saw_of_a_document() -> None:
    one = track(*[(0.8, [A, B])] * 5, *[(0.05, [C])] * 10)
    one.forget(A)
    assert list(one.recent) == [(0.05, (C,))] * 10
    assert one.recent.maxlen == RECENT


def test_culprit_beside_a_document_is_the_one_without_which_it_is_good() -> None:
    beside_b = track(*[(0.8, [A, B])] * 5, *[(0.05, [B])] * 5, *[(0.9, [C])] * 20)
    assert beside_b.culprit(BOUND, beside=B) == A
    assert beside_b.culprit(BOUND, beside=A) is None
    assert beside_b.culprit(BOUND, beside=C) is None


def test_track_is_judged_after_enough() -> None:
    assert not track(*[(0.5, [A])] * 24).judged
    assert track(*[(0.5, [A])] * 25).judged
