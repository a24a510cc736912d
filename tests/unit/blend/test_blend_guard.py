"""The guard's life on divergences that look like recorded ones.

With SmolLM2-135M the first token's KL is about log-normal with sigma 1. Over 100 questions its mean was 0.051
nats for chunks captured behind neutral documents, 15 % repaired, and 0.562 for chunks captured alone, none
repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.guard import BUCKETS, COST_SHARE, FIRST_SHARE, Guard
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Change, Decision, Divergence, GuardSettings, Verdict
from mygo.errors import ConfigError

CALIBRATED, ALONE = 0.051, 0.562
LADDER = GuardSettings((0.15, 0.3, 0.5))
DOCUMENTS = [DocumentTag(f"document-{number}") for number in range(100)]
CHECK_COST = 4.0
"""Exact prefill aside over the blended request and its answer."""
SERVED = (Action.BLEND, Action.CHECK)


def kl_of(mean: float, rng: Random) -> float:
    return rng.lognormvariate(log(mean) - 0.5, 1.0)


def same(kl: float, **value_deviation: float) -> Divergence:
    return Divergence(kl, 0.9, 0.8, {DocumentTag(each): value for each, value in value_deviation.items()})


class Life:
    """Requests of four documents each, more often of the first ones, and what the guard makes of them."""

    def __init__(self, seed: int, settings: GuardSettings = LADDER) -> None:
        self.rng = Random(seed)
        self.guard = Guard(settings)
        self.shadows = 0
        self.requests = 0
        self.actions: list[Action] = []
        self.changes: list[tuple[int, Change]] = []
        """With the number of the shadow that caused it."""

    def documents(self) -> list[DocumentTag]:
        chosen: dict[DocumentTag, None] = {}
        while len(chosen) < 4:
            chosen[DOCUMENTS[int(len(DOCUMENTS) * self.rng.random() ** 2)]] = None
        return [each for each in chosen if each not in self.guard.documents_off]

    def request(
        self,
        mean_of: Callable[[list[DocumentTag], Decision], float],
        deviation_of: Callable[[DocumentTag], float] | None = None,
    ) -> Decision:
        self.requests += 1
        decision = self.guard.decide(1.0, CHECK_COST, self.rng)
        self.actions.append(decision.action)
        if decision.action in (Action.SHADOW, Action.CHECK):
            self.shadows += 1
            documents = self.documents()
            deviation = {each: deviation_of(each) for each in documents} if deviation_of else {}
            kl = kl_of(mean_of(documents, decision), self.rng)
            divergence = Divergence(kl, 0.9, 0.8, deviation)
            for change in self.guard.observe(decision, documents, divergence):
                self.changes.append((self.shadows, change))
        return decision

    def until(self, verdict: Verdict, mean: float, most_requests: int = 5000) -> int | None:
        """Shadows until it is given, counted from now; None if it is not."""
        begin = self.shadows
        for _ in range(most_requests):
            self.request(lambda documents, decision: mean)
            if self.changes and self.changes[-1][1].verdict is verdict:
                return self.shadows - begin
        return None


def prove(guard: Guard, bucket: int = BUCKETS - 1) -> None:
    """Bring a fresh bucket to serve its first alpha."""
    decision = Decision(Action.SHADOW, bucket, guard.settings.alphas[0])
    while not guard.observe(decision, [], same(0.0)):
        pass


def compared(guard: Guard) -> Decision:
    """For a request of the last bucket that is compared with the exact answer, at the first alpha."""
    proven = bool(guard.buckets) and guard.buckets[BUCKETS - 1].served is not None
    return Decision(Action.CHECK if proven else Action.SHADOW, BUCKETS - 1, guard.settings.alphas[0])


def share(life: Life, action: Action) -> float:
    return life.actions.count(action) / len(life.actions)


@pytest.mark.parametrize("alphas", [(0.0,), (0.0, 0.15, 0.3)])
def test_guard_turns_blend_off_within_50_shadows_when_chunks_were_captured_alone(
    alphas: tuple[float, ...],
) -> None:
    needed = [Life(seed, GuardSettings(alphas)).until(Verdict.OFF, ALONE, 1500) for seed in range(100)]
    assert max(number or 10**9 for number in needed) <= 50
    off = Life(0, GuardSettings(alphas))
    off.until(Verdict.OFF, ALONE)
    assert off.request(lambda documents, decision: ALONE).action is Action.EXACT
    assert not set(off.actions) & set(SERVED), "nobody was served what was not proven"


def test_guard_stops_serving_within_50_shadows_when_a_proven_model_breaks() -> None:
    for seed in range(40):
        life = Life(seed)
        assert life.until(Verdict.PROVEN, CALIBRATED) is not None
        generation = life.guard.generation
        needed = life.until(Verdict.OFF, ALONE, 50_000)
        assert needed is not None
        assert needed <= 50
        assert life.guard.generation == generation + 1


def fires(seed: int, requests: int = 2000) -> bool:
    life = Life(seed)
    for _ in range(requests):
        life.request(lambda documents, decision: CALIBRATED, lambda document: life.rng.uniform(0.12, 0.24))
    assert life.guard.buckets[BUCKETS - 1].served is not None
    return any(change.verdict is not Verdict.PROVEN for _, change in life.changes)


def test_guard_does_not_fire_in_2000_requests_when_calibrated() -> None:
    assert sum(fires(seed) for seed in range(40)) == 0


@pytest.mark.slow
def test_guard_does_not_fire_in_1000_lives_of_2000_requests_when_calibrated() -> None:
    """The guarantee is 10 of 1,000 (``HARM_ERROR``) where the mean is at the bound; here it is well below."""
    assert sum(fires(seed) for seed in range(1000)) == 0


@pytest.mark.parametrize("place", [0, 30])
def test_guard_gives_up_one_document_within_50_shadows_when_its_prompts_diverge(place: int) -> None:
    broken = DOCUMENTS[place]
    for seed in range(10):
        life = Life(seed)
        of_broken = 0
        while broken not in life.guard.documents_off:
            documents = life.documents()
            of_broken += broken in documents
            mean = 0.6 if broken in documents else CALIBRATED
            life.guard.observe(compared(life.guard), documents, same(kl_of(mean, life.rng)))
            assert of_broken <= 50
        assert life.guard.documents_off == {broken}
        assert life.guard.buckets[3].state != "off"


def test_guard_gives_up_one_document_within_50_shadows_when_its_values_are_scaled() -> None:
    """By what was measured: sound variants deviate by 0.12 to 0.24, scaled by 1.5 by 0.52 to 0.58."""
    broken = DOCUMENTS[10]
    for seed in range(10):
        life = Life(seed)
        of_broken = 0
        while broken not in life.guard.documents_off:
            documents = life.documents()
            of_broken += broken in documents
            deviation = {
                str(each): life.rng.uniform(*((0.52, 0.58) if each == broken else (0.12, 0.24)))
                for each in documents
            }
            divergence = same(kl_of(CALIBRATED, life.rng), **deviation)
            changes = life.guard.observe(compared(life.guard), documents, divergence)
            assert of_broken <= 50
        assert [(change.verdict, change.document) for change in changes] == [(Verdict.DOCUMENT_OFF, broken)]
        assert life.guard.documents_off == {broken}


def test_guard_blames_the_document_when_the_rest_of_the_bucket_is_good() -> None:
    """Scenario: a broken document comes late, when much evidence is asked of a document, but in so many
    requests that the bucket's bound breaks first."""
    guard, rng = Guard(LADDER), Random(0)
    prove(guard)
    decision = Decision(Action.CHECK, 3, 0.15)
    for number in range(2000):
        others = [DocumentTag(f"other-{number}"), DocumentTag(f"more-{number}")]
        assert not guard.observe(decision, others, same(kl_of(CALIBRATED, rng)))
    broken, neighbour = DOCUMENTS[0], DOCUMENTS[1]
    changes: list[Change] = []
    while not changes:
        documents = [broken, neighbour] if rng.random() < 0.7 else [neighbour, rng.choice(DOCUMENTS[2:])]
        kl = kl_of(0.6 if broken in documents else CALIBRATED, rng)
        changes = guard.observe(decision, documents, same(kl))
    assert [(change.verdict, change.document) for change in changes] == [(Verdict.DOCUMENT_OFF, broken)]
    assert broken not in guard.harmful.tests
    served = guard.buckets[3].served
    assert served is not None
    assert served.count == 0
    assert guard.generation == 1


@pytest.mark.parametrize("together", [0.3, 0.6])
def test_neighbour_of_a_broken_document_stays_when_it_is_good_elsewhere(together: float) -> None:
    """Scenario: the neighbour is in every request, the broken document in some, and all those diverge."""
    broken, neighbour = DOCUMENTS[0], DOCUMENTS[1]
    for seed in range(10):
        guard, rng = Guard(LADDER), Random(seed)
        for _ in range(200):
            beside = broken if rng.random() < together else rng.choice(DOCUMENTS[2:])
            documents = [each for each in (beside, neighbour) if each not in guard.documents_off]
            kl = kl_of(0.6 if broken in documents else CALIBRATED, rng)
            guard.observe(compared(guard), documents, same(kl))
        assert guard.documents_off == {broken}
        assert guard.buckets[3].state != "off"


def test_one_observation_gives_nothing_up_however_bad_it_is() -> None:
    guard = Guard(LADDER)
    bad = same(1e9, **{str(DOCUMENTS[0]): 1e9})
    assert guard.observe(Decision(Action.SHADOW, 3, 0.15), [DOCUMENTS[0]], bad) == []


def test_guard_gives_a_document_another_chance_when_it_was_forgotten() -> None:
    guard = Guard(LADDER)
    guard.documents_off.add(DOCUMENTS[0])
    guard.forget(DOCUMENTS[0])
    guard.forget(DOCUMENTS[1])
    assert guard.documents_off == set()


def test_guard_raises_alpha_when_more_repair_may_help_and_serves_it_once_proven() -> None:
    """Scenario: the first alpha misses the bound by half, the second keeps it."""
    means = {0.15: 0.18, 0.3: 0.05}
    life = Life(1)
    while life.guard.buckets.get(3) is None or life.guard.buckets[3].served is None:
        decision = life.request(lambda documents, decision: means[decision.alpha])
        assert decision.action in (Action.EXACT, Action.SHADOW)
    assert [change.verdict for _, change in life.changes] == [Verdict.RAISED, Verdict.PROVEN]
    assert [change.alpha for _, change in life.changes] == [0.3, 0.3]
    life.actions.clear()
    for _ in range(200):
        decision = life.request(lambda documents, decision: means[decision.alpha])
        assert decision.alpha == (0.15 if decision.action is Action.SHADOW else 0.3)
    assert share(life, Action.BLEND) > 0.8


def test_guard_lowers_alpha_when_the_lower_one_is_proven_again() -> None:
    life = Life(2)
    life.until(Verdict.RAISED, 0.18)
    assert life.until(Verdict.PROVEN, CALIBRATED) is not None
    seen: set[tuple[Action, float]] = set()
    while life.changes[-1][1].verdict is not Verdict.LOWERED:
        decision = life.request(lambda documents, decision: CALIBRATED)
        seen.add((decision.action, decision.alpha))
    assert life.changes[-1][1].alpha == 0.15
    # what served went on serving, and what was tried was tried aside
    assert seen == {(Action.BLEND, 0.3), (Action.CHECK, 0.3), (Action.SHADOW, 0.15)}
    assert life.guard.buckets[3].trial is None


def test_guard_goes_on_serving_when_the_lower_alpha_is_not_good_enough() -> None:
    life = Life(3)
    life.until(Verdict.RAISED, 0.18)
    life.until(Verdict.PROVEN, CALIBRATED)
    bucket = life.guard.buckets[3]
    served, trial = bucket.served, bucket.trial
    while bucket.trial is trial:
        assert not life.guard.observe(Decision(Action.SHADOW, 3, 0.15), [], same(kl_of(0.3, life.rng)))
    assert served is not None
    assert bucket.served is served
    # it is tried again, from the beginning
    assert bucket.trial is not None
    assert (bucket.trial.level, bucket.trial.count) == (0, 0)


def test_guard_turns_a_bucket_off_when_the_last_alpha_breaks_the_bound() -> None:
    life = Life(4, GuardSettings((0.15, 0.3)))
    assert life.until(Verdict.RAISED, 0.19, 20_000) is not None
    assert life.until(Verdict.OFF, 0.19, 20_000) is not None


def test_sampling_starts_at_a_tenth_and_falls_to_its_cost_when_proven() -> None:
    life = Life(5)
    life.until(Verdict.PROVEN, CALIBRATED)
    assert share(life, Action.SHADOW) == pytest.approx(FIRST_SHARE, rel=0.3)
    life.actions.clear()
    for _ in range(30_000):
        life.request(lambda documents, decision: CALIBRATED)
    cost = share(life, Action.CHECK) * CHECK_COST
    assert cost == pytest.approx(COST_SHARE, rel=0.3)
    assert cost < 0.03
    assert share(life, Action.CHECK) + share(life, Action.BLEND) == 1


def test_buckets_are_proven_apart() -> None:
    guard = Guard(LADDER)
    prove(guard)
    rng = Random(0)
    assert guard.decide(1.0, CHECK_COST, rng).action in SERVED
    assert guard.decide(0.76, CHECK_COST, rng).action in SERVED
    low = {guard.decide(0.5, CHECK_COST, rng).action for _ in range(100)}
    assert low == {Action.EXACT, Action.SHADOW}
    assert [guard.decide(need, CHECK_COST, rng).bucket for need in (0, 0.24, 0.25, 0.5, 0.75, 1)] == [
        *(0, 0, 1, 2, 3, 3)
    ]


def test_observation_is_passed_over_when_it_is_late() -> None:
    guard = Guard(LADDER)
    prove(guard)
    guard.documents_off.add(DOCUMENTS[0])
    served = guard.buckets[3].served
    assert served is not None
    bad, seen = same(5.0), served.count
    for _ in range(100):
        assert guard.observe(Decision(Action.SHADOW, 3, 0.15), [], bad) == []  # proven since
        assert guard.observe(Decision(Action.CHECK, 3, 0.3), [], bad) == []  # another alpha by now
        assert guard.observe(Decision(Action.CHECK, 3, 0.15), DOCUMENTS[:2], bad) == []  # given up since
    assert served.count == seen


def test_track_reports_means() -> None:
    guard = Guard(LADDER)
    for kl in (0.0, 0.1, 7.0):
        guard.observe(Decision(Action.SHADOW, 0, 0.15), [], Divergence(kl, 0.5, 0.25))
    track = guard.buckets[0].trial
    assert track is not None
    assert track.mean_kl == pytest.approx(1.1 / 3)  # clipped at a nat
    assert (track.agreement_sum, track.overlap_sum, track.count) == (1.5, 0.75, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alphas": ()}, "alphas"),
        ({"alphas": (0.3, 0.15)}, "ascending"),
        ({"alphas": (0.15, 0.15)}, "ascending"),
        ({"alphas": (-0.1,)}, "none below 0"),
        ({"alphas": (0.1,), "kl_bound": 1.0}, "kl_bound 1.0"),
        ({"alphas": (0.1,), "kl_bound": 0.0}, "kl_bound 0.0"),
        ({"alphas": (0.1,), "deviation_bound": 1.0}, "deviation_bound 1.0"),
    ],
)
def test_settings_are_refused_when_they_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GuardSettings(**wrong)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.floats(0, 10), st.sets(st.sampled_from(DOCUMENTS[:6]), max_size=4)), max_size=80)
)
def test_guard_serves_only_what_was_proven(observed: list[tuple[float, set[DocumentTag]]]) -> None:
    """Whatever is observed: no blend before its proof, none at an alpha that is not the served one."""
    guard, rng = Guard(LADDER), Random(0)
    proven: float | None = None
    for kl, documents in observed:
        decision = guard.decide(1.0, CHECK_COST, rng)
        assert decision.action not in SERVED or decision.alpha == proven
        bucket = guard.buckets[3]
        track = bucket.trial or bucket.served
        if track is None:
            assert decision.action is Action.EXACT
            continue
        action = Action.SHADOW if bucket.trial is not None else Action.CHECK
        for change in guard.observe(
            Decision(action, 3, LADDER.alphas[track.level]), documents, same(kl * exp(-3))
        ):
            if change.verdict in (Verdict.PROVEN, Verdict.LOWERED):
                proven = change.alpha
            elif change.verdict in (Verdict.RAISED, Verdict.OFF):
                proven = None


def test_guard_begins_anew_when_a_document_was_to_blame_for_what_it_saw() -> None:
    guard = Guard(LADDER)
    broken, good = DOCUMENTS[0], DOCUMENTS[1]
    decision = Decision(Action.SHADOW, 3, 0.15)
    while not guard.documents_off:
        guard.observe(decision, [broken], same(0.9))
        guard.observe(decision, [good], same(0.01))
    trial = guard.buckets[3].trial
    assert trial is not None
    assert trial.level == 0
    assert trial.count <= 1


def test_guard_does_not_begin_anew_when_the_rest_is_as_bad() -> None:
    """Else a broken model would be tested for ever, one document after the other."""
    guard = Guard(LADDER)
    decision = Decision(Action.SHADOW, 3, 0.15)
    deviations = {str(DOCUMENTS[0]): 1.0}
    for number in range(60):
        guard.observe(decision, [DOCUMENTS[number % 3]], same(0.5, **deviations))
        if guard.buckets[3].state == "off":
            return
    pytest.fail("the bucket is still tried")
