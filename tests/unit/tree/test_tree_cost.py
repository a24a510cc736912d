"""What an engine's steps cost, learned from noisy steps of an engine whose cost is known."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.tree.cost import Step, StepCost, token_pairs

GPU = [5e-3, 4e-5, 2e-10, 1e-5, 1e-8]
"""Seconds per step, token, pair, sequence and context token: about an 8B model on an H100."""
CPU = [1e-3, 4e-4, 1e-8, 3e-4, 1e-7]


def seconds(weights: Sequence[float], step: Step) -> float:
    terms = (1, step.new_tokens, step.token_pairs, step.sequences, step.context_tokens)
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def decoding(rng: random.Random) -> Step:
    sequences = rng.randrange(1, 256)
    return Step(0, 0.0, sequences, sequences * rng.randrange(100, 8_000))


def any_step(rng: random.Random) -> Step:
    """A prompt alone, decoding alone, or both."""
    prefill = Step.prefill(rng.randrange(8_000), rng.randrange(1, 4_096))
    decode = decoding(rng)
    mixed = Step(prefill.new_tokens, prefill.token_pairs, decode.sequences, decode.context_tokens)
    return rng.choice((prefill, decode, mixed))


def teach(cost: StepCost, weights: Sequence[float], steps: Sequence[Step], rng: random.Random) -> None:
    """With noise of 5 %; one step in a hundred is held up for five times as long."""
    for step in steps:
        held_up = 5 if rng.random() < 0.01 else 1
        cost.observe(step, seconds(weights, step) * held_up * max(0.5, rng.gauss(1, 0.05)))


def errors(cost: StepCost, weights: Sequence[float], rng: random.Random) -> list[float]:
    """Relative errors of predictions, sorted."""
    steps = [any_step(rng) for _ in range(200)]
    return sorted(abs(cost.step_s(step) / seconds(weights, step) - 1) for step in steps)


@pytest.mark.parametrize("weights", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("seed", range(5))
def test_cost_recovers_known_weights_when_steps_are_noisy(seed: int, weights: list[float]) -> None:
    rng = random.Random(seed)
    cost = StepCost(8_192)
    teach(cost, weights, [any_step(rng) for _ in range(300)], rng)
    assert errors(cost, weights, rng)[-1] < 0.1
    assert median(errors(cost, weights, rng)) < 0.03


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_cost_follows_when_the_engine_changes_its_speed(factor: float) -> None:
    rng = random.Random(1)
    cost = StepCost(8_192)
    teach(cost, GPU, [any_step(rng) for _ in range(1_000)], rng)
    changed = [factor * weight for weight in GPU]
    assert median(errors(cost, changed, rng)) > 0.4
    teach(cost, changed, [any_step(rng) for _ in range(500)], rng)
    assert median(errors(cost, changed, rng)) < 0.1


@pytest.mark.parametrize("kind", ["the same", "decoding", "one prompt"])
def test_cost_knows_what_it_knew_when_for_long_only_one_kind_of_step_came(kind: str) -> None:
    """Scenario: an engine decodes through the night; in the morning prompts come again."""
    rng = random.Random(2)
    cost = StepCost(8_192)
    teach(cost, GPU, [any_step(rng) for _ in range(300)], rng)
    kinds = {
        "the same": lambda: Step(0, 0.0, 256, 512_000),
        "decoding": lambda: decoding(rng),
        "one prompt": lambda: Step.prefill(0, 512),
    }
    for _ in range(100):
        teach(cost, GPU, [kinds[kind]() for _ in range(1_000)], rng)
        assert all(map(math.isfinite, cost.weights))
    assert errors(cost, GPU, rng)[-1] < 0.15
    teach(cost, GPU, [any_step(rng) for _ in range(100)], rng)
    assert errors(cost, GPU, rng)[-1] < 0.15


STEPS = st.lists(
    st.tuples(
        st.builds(
            Step,
            new_tokens=st.integers(0, 10_000),
            token_pairs=st.floats(0, 1e9),
            sequences=st.integers(0, 1_000),
            context_tokens=st.integers(0, 10**7),
        ),
        st.floats(1e-6, 60),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS, st.integers(0, 10**6), st.integers(0, 10**6))
def test_cost_is_finite_and_never_negative_whatever_was_measured(
    steps: list[tuple[Step, float]], cached_tokens: int, new_tokens: int
) -> None:
    cost = StepCost(2_048)
    for step, seconds in steps:
        cost.observe(step, seconds)
        assert 0 <= cost.step_s(step) < math.inf
    assert 0 <= cost.prefill_s(cached_tokens, new_tokens) < math.inf
    assert cost.prefill_s(cached_tokens, new_tokens + 1) >= cost.prefill_s(cached_tokens, new_tokens)
    assert cost.prefill_s(cached_tokens + 1, new_tokens) >= cost.prefill_s(cached_tokens, new_tokens)


def test_cost_is_known_once_enough_prompt_tokens_were_computed() -> None:
    cost = StepCost(2_048)
    for _ in range(100):
        cost.observe(Step(sequences=8, context_tokens=4_000), 0.01)
    assert not cost.known
    cost.observe(Step.prefill(0, 255), 0.02)
    assert not cost.known
    cost.observe(Step.prefill(0, 1), 0.01)
    assert cost.known


def test_prefill_pays_for_each_step_that_it_takes() -> None:
    rng = random.Random(3)
    cost = StepCost(1_000)
    teach(cost, GPU, [any_step(rng) for _ in range(300)], rng)
    per_step_s = cost.prefill_s(0, 0)
    in_one = StepCost(3_000)
    in_one.weights = cost.weights
    assert cost.prefill_s(100, 3_000) - in_one.prefill_s(100, 3_000) == pytest.approx(2 * per_step_s)
    assert in_one.prefill_s(100, 3_000) == pytest.approx(cost.step_s(Step.prefill(100, 3_000)))


@given(st.integers(0, 50), st.integers(0, 50))
def test_token_pairs_counts_what_each_token_attends_to(cached_tokens: int, new_tokens: int) -> None:
    assert token_pairs(cached_tokens, new_tokens) == sum(
        cached_tokens + position for position in range(1, new_tokens + 1)
    )
