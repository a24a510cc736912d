"""Every prompt token is accounted for: from which tier it came, or why it was computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.types import Tier, Uncached
from mygo.vllm_plugin.tiers.account import Account, settle

BLOCK_TOKENS = 4  # the scheduler's, see conftest


@given(data=st.data(), block_tokens=st.sampled_from([1, 4, 32]))
def test_account_gives_every_token_its_place_when_anything_is_held(
    data: st.DataObject, block_tokens: int
) -> None:
    """Against a naive walk over the prompt, token by token."""
    prompt_tokens = data.draw(st.integers(1, 300))

    def blocks(most_tokens: int) -> int:
        return data.draw(st.integers(0, most_tokens // block_tokens)) * block_tokens

    device_tokens = blocks(prompt_tokens - 1)
    held_tokens = blocks(prompt_tokens - device_tokens)
    planned_tokens = blocks(held_tokens)
    host_tokens = blocks(planned_tokens)
    disk_tokens = blocks(planned_tokens - host_tokens)
    seen_tokens = data.draw(st.integers(0, prompt_tokens))
    account = settle(
        prompt_tokens=prompt_tokens,
        block_tokens=block_tokens,
        device_tokens=device_tokens,
        loaded_tokens={Tier.HOST: host_tokens, Tier.DISK: disk_tokens},
        planned_tokens=planned_tokens,
        held_tokens=held_tokens,
        seen_tokens=seen_tokens,
    )
    cached_tokens = device_tokens + host_tokens + disk_tokens
    expected: dict[Uncached, int] = {}
    for token in range(cached_tokens, prompt_tokens):
        if token >= (prompt_tokens - 1) // block_tokens * block_tokens:
            reason = Uncached.PROMPT_END
        elif token < device_tokens + planned_tokens:
            reason = Uncached.NOT_LOADABLE
        elif token < device_tokens + held_tokens:
            reason = Uncached.NOT_WORTH_LOADING
        else:
            reason = Uncached.EVICTED if token < seen_tokens else Uncached.NEVER_SEEN
        expected[reason] = expected.get(reason, 0) + 1
    assert account.uncached_tokens == expected
    assert sum(account.cached_tokens.values()) == cached_tokens
    assert all(account.cached_tokens.values())


def test_account_survives_the_way_out_of_the_engine() -> None:
    account = Account({Tier.HOST: 8}, {Uncached.EVICTED: 3})
    assert Account.of_params(account.as_params()) == account
    assert Account.of_params(None) is None
    assert Account.of_params({"other": 1}) is None


@pytest.fixture
def accounts(engine_factory: Callable[..., Any]) -> Callable[[list[int]], Account]:
    """Serve a prompt and return what the engine says of it."""
    engine = engine_factory(blocks=11)  # ten of them for tokens

    def serve(token_ids: list[int]) -> Account:
        request = engine.add(str(len(told)), token_ids)
        finished = engine.connector._tiers.finished
        engine.connector._tiers.finished = lambda ended: told.append(finished(ended)) or told[-1]
        engine.drain()
        engine.connector._tiers.finished = finished
        assert request.is_finished()
        return told[-1]

    told: list[Account] = []
    return serve


def test_prompt_is_new_then_cached_then_evicted(accounts: Callable[[list[int]], Account]) -> None:
    prompt = list(range(1, 22))  # five blocks and a token
    assert accounts(prompt) == Account({}, {Uncached.NEVER_SEEN: 20, Uncached.PROMPT_END: 1})
    assert accounts(prompt) == Account({Tier.DEVICE: 20}, {Uncached.PROMPT_END: 1})
    longer = [*prompt[:20], 30, 31, 32, 33, 34]
    assert accounts(longer) == Account({Tier.DEVICE: 20}, {Uncached.NEVER_SEEN: 4, Uncached.PROMPT_END: 1})
    accounts(list(range(40, 80)))
    assert accounts(prompt) == Account({}, {Uncached.EVICTED: 20, Uncached.PROMPT_END: 1})


def test_last_block_is_computed_when_a_prompt_ends_with_it(
    accounts: Callable[[list[int]], Account],
) -> None:
    prompt = list(range(1, 9))
    accounts(prompt)
    assert accounts(prompt) == Account({Tier.DEVICE: 4}, {Uncached.PROMPT_END: 4})


@given(
    uncached=st.dictionaries(st.sampled_from(list(Uncached)), st.integers(1, 50)),
    loaded_tokens=st.integers(0, 100),
)
def test_tokens_of_chunks_are_not_counted_as_computed(
    uncached: dict[Uncached, int], loaded_tokens: int
) -> None:
    account = Account({Tier.DEVICE: 8}, uncached)
    left = account.without(loaded_tokens)
    end = uncached.get(Uncached.PROMPT_END, 0)
    assert left.cached_tokens == account.cached_tokens
    assert left.uncached_tokens.get(Uncached.PROMPT_END, 0) == end
    assert sum(left.uncached_tokens.values()) - end == max(0, sum(uncached.values()) - end - loaded_tokens)
    if left.uncached_tokens.get(Uncached.NEVER_SEEN):
        others = {reason: tokens for reason, tokens in uncached.items() if reason != Uncached.NEVER_SEEN}
        assert others.items() <= left.uncached_tokens.items()
