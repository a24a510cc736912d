from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prompt_models import ALICE, BOB, ROOT, passage

from mygo.prompt.order import CacheOrder, Document, Path, retrieval_order
from mygo.types import PUBLIC, SegmentKey

START = Path(ROOT, PUBLIC)


def document(number: int) -> Document:
    domain = (PUBLIC, ALICE, BOB)[number % 3]
    return Document(passage(f"document {number}", domain=domain), (number, number + 1))


def naive(
    ranked: list[Document], path: Path, cached: dict[SegmentKey, int], popularity: dict[str, int]
) -> list[Document]:
    """The walk told as a sentence: sort what is left by all criteria at each step, take the first."""
    rest, chosen, cold = list(ranked), [], False
    while rest:

        def rank(candidate: Document, path: Path = path, cold: bool = cold) -> tuple[int, int, int]:
            key = path.then(candidate.domain, candidate.token_ids).key
            held = 0 if cold else cached.get(key, 0)
            return (-held, -popularity[candidate.scored.passage.text], ranked.index(candidate))

        best = min(rest, key=rank)
        cold = cold or rank(best)[0] == 0
        chosen.append(best)
        rest.remove(best)
        path = path.then(best.domain, best.token_ids)
    return chosen


@st.composite
def served(draw: st.DrawFn) -> tuple[list[Document], dict[SegmentKey, int], dict[str, int]]:
    """A ranking, and the prefixes of some permutations of it, held as if served before."""
    ranked = [document(n) for n in draw(st.lists(st.integers(0, 9), max_size=6, unique=True))]
    cached: dict[SegmentKey, int] = {}
    for order in draw(st.lists(st.permutations(ranked), max_size=4)):
        path = START
        for item in order[: draw(st.integers(0, len(order)))]:
            path = path.then(item.domain, item.token_ids)
            cached[path.key] = draw(st.integers(1, 3))
    popularity = {d.scored.passage.text: draw(st.integers(0, 2)) for d in ranked}
    return ranked, cached, popularity


@given(served())
def test_cache_order_equals_the_naive_walk(
    case: tuple[list[Document], dict[SegmentKey, int], dict[str, int]],
) -> None:
    ranked, cached, popularity = case
    order = CacheOrder(lambda key: cached.get(key, 0), lambda scored: popularity[scored.passage.text])
    result = order(ranked, START)
    assert sorted(map(id, result)) == sorted(map(id, ranked))
    assert result == naive(ranked, START, cached, popularity)


def test_cache_order_walks_down_a_served_path_when_ranks_are_swapped() -> None:
    one, two, three = document(0), document(3), document(6)
    first = START.then(PUBLIC, three.token_ids)
    cached = {first.key: 2, first.then(PUBLIC, one.token_ids).key: 2}
    assert CacheOrder(lambda key: cached.get(key, 0))([one, two, three], START) == [three, one, two]


def test_cache_order_misses_when_the_same_ids_were_served_in_another_domain() -> None:
    private, public = document(1), document(0)
    cached = {START.then(BOB, private.token_ids).key: 2}
    assert CacheOrder(lambda key: cached.get(key, 0))([public, private], START) == [public, private]


def test_retrieval_order_keeps_the_ranking() -> None:
    ranked = [document(4), document(0), document(2)]
    assert retrieval_order(ranked, START) == ranked
