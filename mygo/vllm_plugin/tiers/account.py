"""Where a prompt's tokens came from, and why the rest had to be computed: told with its answer.

A request's account is settled when it is admitted, since then it is known what will be loaded. It leaves the
engine with the last token, in ``RequestOutput.kv_transfer_params``: earlier outputs carry no such thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mygo.types import Tier, Uncached


@dataclass(frozen=True, slots=True)
class Account:
    """All tokens of one prompt; entries of none are left out."""

    cached_tokens: Mapping[Tier, int]
    uncached_tokens: Mapping[Uncached, int]

    def as_params(self) -> dict[str, Any]:
        """As it travels in ``kv_transfer_params``."""
        return {"mygo": {"cached": dict(self.cached_tokens), "uncached": dict(self.uncached_tokens)}}

    def without(self, loaded_tokens: int) -> Account:
        """So many fewer were computed, because chunks had them. Which ones is not known here: those that
        no tier could have had count first."""
        uncached = dict(self.uncached_tokens)
        for reason in sorted(uncached, key=lambda reason: reason is not Uncached.NEVER_SEEN):
            if reason is not Uncached.PROMPT_END:
                fewer = min(loaded_tokens, uncached[reason])
                uncached[reason] -= fewer
                loaded_tokens -= fewer
        return Account(self.cached_tokens, {reason: tokens for reason, tokens in uncached.items() if tokens})

    @classmethod
    def of_params(cls, params: Mapping[str, Any] | None) -> Account | None:
        """What ``as_params`` made; None if there is none."""
        told = (params or {}).get("mygo")
        if told is None:
            return None
        return cls(
            {Tier(name): tokens for name, tokens in told["cached"].items()},
            {Uncached(name): tokens for name, tokens in told["uncached"].items()},
        )


def settle(
    *,
    prompt_tokens: int,
    block_tokens: int,
    device_tokens: int,
    loaded_tokens: Mapping[Tier, int],
    planned_tokens: int,
    held_tokens: int,
    seen_tokens: int,
) -> Account:
    """Account for every token of a prompt that is admitted.

    Leading tokens, in whole blocks: ``device_tokens`` on the device; behind them ``held_tokens`` in slower
    tiers without a gap, of which ``planned_tokens`` were worth loading; ``seen_tokens`` of the whole prompt
    that an earlier prompt had, too. ``loaded_tokens`` are loaded indeed, by the tier that they come from.
    """
    usable_tokens = max(0, prompt_tokens - 1) // block_tokens * block_tokens
    marks = {
        Uncached.NOT_LOADABLE: device_tokens + planned_tokens,
        Uncached.NOT_WORTH_LOADING: device_tokens + held_tokens,
        Uncached.EVICTED: min(seen_tokens, usable_tokens),
        Uncached.NEVER_SEEN: usable_tokens,
        Uncached.PROMPT_END: prompt_tokens,
    }
    at = device_tokens + sum(loaded_tokens.values())
    uncached: dict[Uncached, int] = {}
    for reason, end in marks.items():
        if reason is not Uncached.PROMPT_END:
            end = min(end, usable_tokens)
        if end > at:
            uncached[reason] = end - at
            at = end
    cached = {Tier.DEVICE: device_tokens, **loaded_tokens}
    return Account({tier: tokens for tier, tokens in cached.items() if tokens}, uncached)
