"""Who shares blocks with whom: vLLM's own hasher and scheduler under changing salts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.types import SegmentKey, SegmentSpan
from mygo.vllm_plugin import identity

BLOCK_TOKENS = 4


def _spans(*parts: tuple[int, str]) -> list[SegmentSpan]:
    return [SegmentSpan(SegmentKey("0" * 32), end_tokens, salt) for end_tokens, salt in parts]


def _request(ids: list[int], spans: list[SegmentSpan]) -> Any:
    from vllm import SamplingParams
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    hash_function = get_hash_fn_by_name("sha256_cbor")
    init_none_hash(hash_function)
    request = Request(
        request_id="r",
        prompt_token_ids=list(ids),
        sampling_params=SamplingParams(max_tokens=64),
        pooling_params=None,
        cache_salt=spans[0].salt,
        block_hasher=get_request_block_hasher(BLOCK_TOKENS, hash_function),
    )
    identity.narrow(request, spans, BLOCK_TOKENS)
    return request


def _shared(a: Any, b: Any) -> int:
    equal = [x == y for x, y in zip(a.block_hashes, b.block_hashes, strict=True)]
    assert equal == sorted(equal, reverse=True), "hashes meet again behind a difference"
    return sum(equal)


def test_salt_changes_lists_the_block_where_each_narrower_span_begins_when_some_are_empty() -> None:
    spans = _spans((6, "p"), (6, "a"), (9, "a"), (11, "ab"), (11, "x"), (20, "ab"))
    assert identity.salt_changes(spans, 4) == {1: ["a"], 2: ["ab"]}
    assert identity.salt_changes([*spans, *_spans((20, "abc"))], 4)[5] == ["abc"]  # the answer's


def test_narrow_leaves_vllms_hashes_alone_when_no_salt_changes() -> None:
    ids = list(range(20))
    assert (
        _request(ids, _spans((7, "p"), (20, "p"))).block_hashes
        == _request(ids, _spans((20, "p"))).block_hashes
    )


def test_narrow_parts_two_tenants_from_the_first_block_of_a_private_span_when_ids_are_equal() -> None:
    ids = list(range(20))
    ours = _request(ids, _spans((10, "p"), (20, "a")))
    theirs = _request(ids, _spans((10, "p"), (20, "b")))
    public = _request(ids, _spans((20, "p")))
    assert _shared(ours, theirs) == _shared(ours, public) == 2  # the block of token 10 is private
    assert _shared(ours, _request(ids, _spans((10, "p"), (20, "a")))) == 5


def test_narrow_salts_generated_blocks_when_the_private_span_lies_in_the_unfilled_last_block() -> None:
    ids = list(range(10))
    ours, theirs = (_request(ids, _spans((9, "p"), (10, salt))) for salt in "ab")
    for request in (ours, theirs):
        request.append_output_token_ids([50, 51, 52, 53, 54, 55])
    assert len(ours.block_hashes) == 4
    assert _shared(ours, theirs) == 2


@settings(deadline=None, max_examples=60)
@given(
    ends=st.lists(st.integers(1, 30), min_size=1, max_size=4).map(sorted),
    salts=st.lists(st.sampled_from(["p", "a", "ab"]), min_size=4, max_size=4),
    outputs=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=9), max_size=5),
)
def test_narrow_gives_generated_tokens_the_hashes_that_they_have_when_they_return_in_a_prompt(
    ends: list[int], salts: list[str], outputs: list[list[int]]
) -> None:
    spans = _spans(*zip(ends, salts, strict=False))
    ids = list(range(ends[-1]))
    generated = _request(ids, spans)
    for step in outputs:
        generated.append_output_token_ids(step)
    answer = [token for step in outputs for token in step]
    last = spans[-1]
    returned = _request(
        ids + answer,
        [*spans, SegmentSpan(last.key, last.end_tokens + len(answer), last.salt)],
    )
    assert generated.block_hashes == returned.block_hashes
    assert len(generated.block_hashes) == (len(ids) + len(answer)) // BLOCK_TOKENS


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_narrow_shares_exactly_the_blocks_before_two_salt_sequences_part_when_ids_are_equal(
    seed: int,
) -> None:
    rng = random.Random(seed)
    ids = list(range(40))
    border, ours_end = rng.randrange(1, 39), rng.randrange(1, 39)
    common = [(border, "p")]
    ours = _request(ids, _spans(*common, (max(border, ours_end), "a"), (40, "ab")))
    theirs = _request(ids, _spans(*common, (40, "b")))
    assert _shared(ours, theirs) == border // BLOCK_TOKENS


def test_narrow_gives_these_hashes_when_any_process_computes_them() -> None:
    hashes = b"".join(_request(list(range(20)), _spans((10, "p"), (20, "a"))).block_hashes)
    assert (
        hashlib.sha256(hashes).hexdigest()
        == "03dd56d7984d1b32fd082e2df741da11bedc81465aae0291a8d1e63752052ae9"
    )


def test_isolate_shares_no_block_when_ids_are_equal() -> None:
    first, second = _request(list(range(20)), _spans((20, "p"))), _request(list(range(20)), _spans((20, "p")))
    identity.isolate(first)
    assert _shared(first, second) == 0
    first.append_output_token_ids([1, 2, 3, 4])
    assert len(first.block_hashes) == 6


def test_scheduler_hits_only_the_shared_part_when_another_tenant_asks_the_same(
    engine_factory: Callable[..., Any],
) -> None:
    engine = engine_factory()
    ids, key = list(range(1, 41)), "0" * 32

    def computed(request_id: str, *parts: tuple[int, str]) -> int:
        before = engine.computed_tokens
        engine.add(request_id, ids, spans=[(key, end_tokens, salt) for end_tokens, salt in parts])
        engine.drain()
        return int(engine.computed_tokens - before)

    assert computed("1", (21, "p"), (40, "a")) == 40
    assert computed("2", (21, "p"), (40, "a")) == 4  # vLLM computes the block of the last token
    assert computed("3", (21, "p"), (40, "b")) == 20  # block 5 holds token 21: private
    assert computed("4", (40, "p")) == 20
    assert computed("5", (40, "q")) == 40


def test_scheduler_shares_nothing_when_a_segment_map_is_malformed(engine_factory: Callable[..., Any]) -> None:
    engine = engine_factory()
    ids = list(range(1, 41))
    for request_id in ("1", "2"):
        engine.add(request_id, ids, spans=[("0" * 32, 39, "p")])  # ends before the prompt does
        engine.drain()
    assert engine.computed_tokens == 80


@given(
    st.lists(st.tuples(st.integers(0, 39), st.sampled_from(["x", "y"])), max_size=3),
    st.lists(st.tuples(st.integers(0, 39), st.sampled_from(["x", "y"])), max_size=3),
)
def test_approximate_blocks_are_shared_exactly_as_far_as_their_tags_are_equal(
    ours: list[tuple[int, str]], theirs: list[tuple[int, str]]
) -> None:
    """Whatever a request was tagged with before."""
    ids, spans = list(range(40)), _spans((20, "p"), (40, "a"))
    requests = []
    for tags in (ours, theirs):
        request = _request(ids, spans)
        hasher = request._block_hasher
        identity.approximate(request, hasher, theirs, BLOCK_TOKENS)
        identity.approximate(request, hasher, tags, BLOCK_TOKENS)
        requests.append(request)

    def of_block(tags: list[tuple[int, str]], block: int) -> list[str]:
        return [tag for start, tag in tags if start // BLOCK_TOKENS == block]

    equal = next((b for b in range(10) if of_block(ours, b) != of_block(theirs, b)), 10)
    assert _shared(*requests) == equal
    exact = _request(ids, spans)
    identity.approximate(requests[0], hasher, [], BLOCK_TOKENS)
    assert requests[0].block_hashes == exact.block_hashes
