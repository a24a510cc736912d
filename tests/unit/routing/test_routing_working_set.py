"""Working sets against a list of everything that was sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mygo.routing.working_set import WorkingSets
from mygo.types import PathStep, SegmentKey, WorkerId

WINDOW = 3
NAMES = "abcde"
TOKENS = {name: 10 * (index + 1) for index, name in enumerate(NAMES)}


def path(names: str) -> list[PathStep]:
    """One segment per name; where it lies does not matter, only its key and length do."""
    return [PathStep(SegmentKey(name), 0, TOKENS[name]) for name in names]


PATHS = st.lists(st.sampled_from(NAMES), unique=True, max_size=3).map("".join)


@given(st.lists(st.tuples(st.sampled_from("xy"), PATHS), max_size=20), PATHS)
def test_working_set_has_the_distinct_tokens_of_the_last_requests_when_compared_with_a_list(
    sent: list[tuple[str, str]], asked: str
) -> None:
    sets = WorkingSets(WINDOW)
    for worker, names in sent:
        sets.sent(WorkerId(worker), path(names))
    for worker in "xyz":
        last = [names for to, names in sent if to == worker][-WINDOW:]
        distinct = set("".join(last)) | set(asked)
        expected = sum(TOKENS[name] for name in distinct)
        assert sets.tokens_with(WorkerId(worker), path(asked)) == expected
