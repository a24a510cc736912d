"""The least that must be computed, against everything that could be kept."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.blend.bound import Clairvoyant, least_computed_tokens
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest

TOKENS = 10


def most_hits(uses: tuple[int, ...], capacity: int) -> int:
    """By trying all that may be kept after each use."""

    @cache
    def best(at: int, held: frozenset[int]) -> int:
        if at == len(uses):
            return 0
        both = held | {uses[at]}
        kept = [both] if len(both) <= capacity else [both - {each} for each in both]
        return (uses[at] in held) + max(best(at + 1, each) for each in kept)

    return best(0, frozenset())


@given(st.lists(st.integers(0, 4), max_size=9).map(tuple), st.integers(0, 3))
def test_no_store_hits_more_when_documents_are_equally_long(uses: tuple[int, ...], capacity: int) -> None:
    coming: dict[TextId, list[int]] = {}
    for number, each in reversed(list(enumerate(uses))):
        coming.setdefault(TextId(str(each)), []).append(number)
    store = Clairvoyant(capacity * TOKENS, coming)
    hits = sum(store.use(TextId(str(each)), TOKENS, number) for number, each in enumerate(uses))
    assert hits == most_hits(uses, capacity)


def _trace(*documents: str) -> Trace:
    texts = {TextId(name): Text(100) for name in {"system", *"".join(documents)}}
    requests = tuple(
        TraceRequest(number, float(number), TextId("system"), tuple(map(TextId, names)), 7, 1)
        for number, names in enumerate(documents)
    )
    return Trace("t", texts, requests)


def _least(trace: Trace, first: int, chunk_tokens: float = 1e9) -> int:
    return least_computed_tokens(
        trace, trace.requests[first:], chunk_tokens=chunk_tokens, alpha=0.2, floor_tokens=1
    )


def test_bound_takes_the_exact_prefix_first_and_chunks_behind_it() -> None:
    trace = _trace("ab", "ab", "ba", "ac")
    assert _least(trace, 0) == (100 + 200 + 7) + 7 + (20 + 20 + 7) + (100 + 7)
    assert _least(trace, 2) == 47 + 107


def test_bound_computes_documents_when_no_chunk_fits() -> None:
    assert _least(_trace("ab", "ba"), 1, chunk_tokens=50) == 207
