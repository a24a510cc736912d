"""How far a blended answer is from the exact one, by what an engine tells of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from mygo.blend.verdicts import Divergence

ROUNDING = 1e-6
"""Of sums of an engine's probabilities: what is left of 1 beyond it is noise."""


LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Probed:
    """A prompt's greedy answer."""

    token_ids: tuple[int, ...]
    first: Mapping[int, float]
    """Log probabilities of the likeliest first tokens, by id."""
    approximate: bool
    """Some of the prompt's documents were blended."""
    computed_tokens: int
    """Of the prompt."""


def compare(exact: Probed, blended: Probed) -> Divergence:
    """Tokens agree if they are the same in the same place: once two greedy answers part, they are two texts,
    which counts against the blend."""
    pairs = zip(exact.token_ids, blended.token_ids, strict=False)
    longest = max(len(exact.token_ids), len(blended.token_ids))
    agreement = sum(a == b for a, b in pairs) / longest if longest else 1.0
    return Divergence(
        first_token_kl(exact.first, blended.first),
        agreement,
        token_f1(exact.token_ids, blended.token_ids),
    )


def first_token_kl(exact: Mapping[int, float], blended: Mapping[int, float]) -> float:
    """The least KL(exact || blended) in nats that two distributions can have of which these log probabilities
    of their likeliest tokens are known: a lower bound, close to the truth where they name most of the mass.

    Tokens that ``exact`` names are compared one by one, all others as one: by the data-processing inequality
    that takes nothing but divergence away. Of a token that ``blended`` does not name it is known that it is
    no likelier than the least likely one that it names, and that all of these share what is left of 1.
    """
    known = [
        (_probability(exact[token]), _probability(blended[token])) for token in exact.keys() & blended.keys()
    ]
    kl = sum(p * log(p / q) for p, q in known)
    unnamed = sorted((_probability(exact[token]) for token in exact.keys() - blended.keys()), reverse=True)
    most = _probability(min(blended.values(), default=0.0))
    left_p = max(0.0, 1 - sum(p for p, _ in known))
    left_q = max(ROUNDING, 1 - sum(q for _, q in known))
    # Shared in proportion to p, what is left costs least; where that is more than a token can have, it has
    # as much as it can, and the others share the rest.
    for p in unnamed:
        if left_q * p <= most * left_p:
            break
        kl += p * log(p / most)
        left_p, left_q = left_p - p, max(ROUNDING, left_q - most)
    if left_p > ROUNDING:
        kl += left_p * log(left_p / left_q)
    return max(0.0, kl)


def _probability(log_probability: float) -> float:
    """Above 0, since engines say -inf of what they round away."""
    return max(LEAST, exp(log_probability))


def token_f1(exact: Sequence[int], blended: Sequence[int]) -> float:
    """F1 of the tokens, whatever their order, in [0, 1]."""
    common = (Counter(exact) & Counter(blended)).total()
    total = len(exact) + len(blended)
    return 2 * common / total if total else 1.0
