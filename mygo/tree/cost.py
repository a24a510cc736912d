"""Seconds of an engine's steps, learned from the steps themselves: T(cached, new) that refits online.

A step that computes prompts and decodes takes about

    step_s = w0 + w1 * new_tokens + w2 * token_pairs + w3 * sequences + w4 * context_tokens

where ``token_pairs`` counts (query, key) pairs of prompt attention, ``sequences`` decode and read
``context_tokens`` of KV. The weights come from recursive least squares with forgetting (Haykin, Adaptive
Filter Theory, ch. 10), so that a throttled or shared device is followed within some hundred steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A step's weight is halved after about 700 further steps.
FORGETTING = 0.999
# Features are brought to about 1 by these, so that one regularisation fits all.
_SCALES = np.array([1.0, 1e3, 1e6, 1e1, 1e4])
_WEIGHTS = len(_SCALES)
_NEW_TOKENS, _PAIRS = 1, 2
# Predictions from less than this many computed tokens are guesses.
_KNOWN_TOKENS = 256
_GUESSED_S_PER_TOKEN = 1e-4
# No device computes a token in less; noise may have a prediction there.
_LEAST_S_PER_TOKEN = 1e-8


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step computed."""

    new_tokens: int = 0
    """Prompt tokens."""
    token_pairs: float = 0.0
    """Sum over prompt tokens of the tokens that each attends to."""
    sequences: int = 0
    context_tokens: int = 0

    @staticmethod
    def prefill(cached_tokens: int, new_tokens: int) -> Step:
        return Step(new_tokens, token_pairs(cached_tokens, new_tokens))


def token_pairs(cached_tokens: int, new_tokens: int) -> float:
    """(query, key) pairs when ``new_tokens`` follow ``cached_tokens``."""
    return new_tokens * (cached_tokens + (new_tokens + 1) / 2)


class StepCost:
    """Learns what steps cost, and predicts prefills of ``step_tokens`` tokens per step at most."""

    def __init__(self, step_tokens: int, weights: Sequence[float] = ()) -> None:
        """``weights`` as a former ``weights`` gave them. Raises ValueError for another number of them."""
        if weights and len(weights) != _WEIGHTS:
            raise ValueError(f"{len(weights)} weights of a step's cost, {_WEIGHTS} are needed")
        self._step_tokens = step_tokens
        self._weights = np.array(weights or [0.0] * _WEIGHTS) * _SCALES
        # what was learned before counts as much as some steps of a kind
        self._covariance = np.eye(_WEIGHTS) * (0.1 if weights else 1e3)
        self._seen_tokens = _KNOWN_TOKENS if weights else 0

    @property
    def known(self) -> bool:
        """False until enough was computed to predict anything."""
        return self._seen_tokens >= _KNOWN_TOKENS

    @property
    def weights(self) -> list[float]:
        """Seconds per unit of each term, for the next run."""
        return [float(weight) for weight in self._weights / _SCALES]

    def observe(self, step: Step, seconds: float) -> None:
        """A step took ``seconds``."""
        x = np.array([1, step.new_tokens, step.token_pairs, step.sequences, step.context_tokens]) / _SCALES
        error = seconds - float(x @ self._weights)
        along = self._covariance @ x
        gain = along / (FORGETTING + float(x @ along))
        self._weights = self._weights + gain * error
        self._covariance = (self._covariance - np.outer(gain, along)) / FORGETTING
        # without excitation, forgetting would let the covariance grow for ever
        self._covariance = np.clip(self._covariance, -1e3, 1e3)
        self._seen_tokens += step.new_tokens

    def step_s(self, step: Step) -> float:
        """Predicted seconds of one step."""
        terms = (1, step.new_tokens, step.token_pairs, step.sequences, step.context_tokens)
        weights = self._weights / _SCALES
        return float(sum(max(0.0, weight) * term for weight, term in zip(weights, terms, strict=True)))

    def prefill_s(self, cached_tokens: int, new_tokens: int) -> float:
        """Predicted seconds to compute ``new_tokens`` behind ``cached_tokens``, alone on the engine.

        More than 0 for any token, so that costs can always be compared; while nothing is ``known``, in
        proportion to them.
        """
        if not self.known:
            return new_tokens * _GUESSED_S_PER_TOKEN
        steps = -(-new_tokens // self._step_tokens)
        empty_s = max(0.0, float(self._weights[0]))
        predicted_s = max(0, steps - 1) * empty_s + self.step_s(Step.prefill(cached_tokens, new_tokens))
        return max(predicted_s, new_tokens * _LEAST_S_PER_TOKEN)
