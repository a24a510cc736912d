"""Seconds of an engine's steps, learned from the steps themselves: T(cached, new) that refits online.

A step that computes prompts and decodes takes about

    step_s = w0 + w1 * new_tokens + w2 * token_pairs + w3 * sequences + w4 * context_tokens

where ``token_pairs`` counts (query, key) pairs of prompt attention, ``sequences`` decode and read
``context_tokens`` of KV. The weights come from recursive least squares with directional forgetting (Kulhavy,
Kybernetika 23, 1987): a step lets only what it tells of itself fade. An engine may do nothing but decode for
hours; with the usual forgetting, which lets everything fade, it would then know nothing of prompts, and its
covariance would grow until predictions are off by orders of magnitude. Errors are relative: a longer step's
noise is longer, too, and one that was held up counts little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

# What a step told counts half after 34 more of its kind.
FORGETTING = 0.98
# Features are brought to about 1 by these, so that one regularisation fits all.
_SCALES = (1.0, 1e3, 1e6, 1e1, 1e4)
_WEIGHTS = range(len(_SCALES))
# Nothing is known of the weights before: seconds squared, per scaled unit.
_PRIOR_VARIANCE = 1e3
# Predictions from less than this many computed tokens are guesses.
_KNOWN_TOKENS = 256


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
    """Learns what steps cost, and predicts prefills of ``step_tokens`` tokens per step at most.

    Plain lists: for five weights they are faster than arrays, and every engine step comes through here.
    """

    def __init__(self, step_tokens: int) -> None:
        self._step_tokens = step_tokens
        self._scaled = [0.0 for _ in _WEIGHTS]
        self._covariance = [[_PRIOR_VARIANCE * (row == column) for column in _WEIGHTS] for row in _WEIGHTS]
        self._seen_tokens = 0
        self.weights = [0.0 for _ in _WEIGHTS]
        """Seconds per unit of each term, never negative."""

    @property
    def known(self) -> bool:
        """False until enough was computed to predict anything."""
        return self._seen_tokens >= _KNOWN_TOKENS

    def observe(self, step: Step, seconds: float) -> None:
        """A step took ``seconds``, more than 0."""
        terms = _terms(step)
        x = [term / scale / seconds for term, scale in zip(terms, _SCALES, strict=True)]
        along = [_dot(row, x) for row in self._covariance]
        spread = _dot(along, x)
        self._seen_tokens += step.new_tokens
        if spread <= 0:  # rounding: as sure of such steps as numbers can say
            return
        gain = (1 - _dot(self._scaled, x)) / (1 + spread)
        self._scaled = [weight + gain * each for weight, each in zip(self._scaled, along, strict=True)]
        self.weights = [max(0.0, weight) / scale for weight, scale in zip(self._scaled, _SCALES, strict=True)]
        # along x this is what forgetting everything would give, spread / (1 + spread) / FORGETTING;
        # what says nothing of x stays
        share = FORGETTING - (1 - FORGETTING) / spread
        shrink = share / (1 + share * spread)
        for row, each in zip(self._covariance, along, strict=True):
            part = shrink * each
            for column in _WEIGHTS:
                row[column] -= part * along[column]

    def step_s(self, step: Step) -> float:
        """Predicted seconds of one step."""
        return _dot(self.weights, _terms(step))

    def prefill_s(self, cached_tokens: int, new_tokens: int) -> float:
        """Predicted seconds to compute ``new_tokens`` behind ``cached_tokens``, alone on the engine."""
        steps = -(-new_tokens // self._step_tokens)
        pairs = token_pairs(cached_tokens, new_tokens)
        return max(1, steps) * self.weights[0] + new_tokens * self.weights[1] + pairs * self.weights[2]


def _terms(step: Step) -> tuple[float, ...]:
    return 1.0, step.new_tokens, step.token_pairs, step.sequences, step.context_tokens


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    total: float = sum(map(mul, left, right))
    return total
