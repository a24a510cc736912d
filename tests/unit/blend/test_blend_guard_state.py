"""A guard survives as JSON, and a damaged state is refused, whatever the damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.blend.guard import Guard
from mygo.blend.guard_state import dump, load
from mygo.blend.track import RECENT
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Change, Divergence, GuardSettings
from mygo.errors import MygoError

SETTINGS = GuardSettings((0.15, 0.3))
DOCUMENTS = [DocumentTag(name) for name in "ABCDEF"]


def live(guard: Guard, rng: Random, requests: int, mean: float) -> list[Change]:
    changes: list[Change] = []
    for _ in range(requests):
        decision = guard.decide(rng.choice([0.3, 1.0]), 0.1, rng)
        if decision.action in (Action.SHADOW, Action.CHECK):
            documents = rng.sample(DOCUMENTS, 3)
            deviation = {document: rng.random() / 3 for document in documents}
            kl = rng.expovariate(1 / mean) if "A" not in documents else 0.7
            changes += guard.observe(
                decision, documents, Divergence(kl, rng.random(), rng.random(), deviation)
            )
    return changes


def lived(seed: int, mean: float, requests: int = 2000) -> Guard:
    guard = Guard(SETTINGS)
    live(guard, Random(seed), requests, mean)
    return guard


@given(st.integers(0, 10**6), st.sampled_from([0.02, 0.15, 0.8]))
def test_loaded_guard_goes_on_as_the_dumped_one_would(seed: int, mean: float) -> None:
    guard = lived(seed, mean)
    text = dump(guard)
    copy = load(text, SETTINGS)
    assert dump(copy) == text
    assert live(copy, Random(1), 300, mean) == live(guard, Random(1), 300, mean)
    assert dump(copy) == dump(guard)


def test_loaded_guard_is_not_trivial() -> None:
    guard = load(dump(lived(1, 0.02, 6000)), SETTINGS)
    assert guard.documents_off == {"A"}
    assert guard.generation == 1
    assert [bucket.served.recent.maxlen for bucket in guard.buckets.values() if bucket.served] == [RECENT] * 2
    assert {number: bucket.state for number, bucket in guard.buckets.items()} == {1: "proven", 3: "proven"}


def test_state_is_refused_when_the_settings_are_others() -> None:
    with pytest.raises(
        MygoError, match=r"it is for settings .* not .*; remove it, and blending is proven anew"
    ):
        load(dump(lived(1, 0.02)), GuardSettings((0.2, 0.3)))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"version": 1}', '{"version": 2}', "\x00"])
def test_state_is_refused_when_it_is_no_state(text: str) -> None:
    with pytest.raises(MygoError, match="the quality guard's state cannot be used"):
        load(text, SETTINGS)


STATE = dump(lived(1, 0.02))


@given(st.integers(0, len(STATE) - 1))
def test_state_is_refused_when_it_is_cut_off(length: int) -> None:
    with pytest.raises(MygoError):
        load(STATE[:length], SETTINGS)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value but the top."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    return found + [place for key, each in inner for place in places(each, (*path, key))]


PLACES = places(json.loads(STATE))


@given(
    st.sampled_from(PLACES), st.sampled_from([None, -1, 1.5, "x", [], {}, [[]], {"level": 9}, float("inf")])
)
def test_state_is_refused_or_harmless_when_a_value_is_another(place: tuple[Any, ...], value: Any) -> None:
    """No damage gets through as another error, now or when the guard is used."""
    state = json.loads(STATE)
    inner = state
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        guard = load(json.dumps(state), SETTINGS)
    except MygoError:
        return
    live(guard, Random(0), 50, 0.1)


def a_track(state: Any) -> Any:
    return state["buckets"]["3"]["served"] or state["buckets"]["3"]["trial"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.update(generation=-1),
        lambda state: state.update(tracks="2"),
        lambda state: a_track(state).update(level=2),
        lambda state: a_track(state)["harm"][1].pop(),
        lambda state: state["harmful"]["tests"][0].pop(),
        lambda state: state.pop("damaged"),
    ],
)
def test_state_is_refused_when_it_contradicts_itself(damage: Callable[[Any], object]) -> None:
    state = json.loads(STATE)
    damage(state)
    with pytest.raises(MygoError):
        load(json.dumps(state), SETTINGS)
