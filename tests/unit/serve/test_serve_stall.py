"""An engine that hangs is told from one that is idle, slow, or was not looked at."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mygo.serve.stall import StallWatch


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
def test_stall_is_the_last_looks_without_a_sign_when_requests_are_open(looks: list[tuple[int, bool]]) -> None:
    watch, signs = StallWatch(limit_s=2.0, interval_s=0.5), 0
    for number, (_, sign) in enumerate(looks, 1):
        signs += sign
        # the first look has nothing to compare with but the beginning, when there was no sign
        recent = looks[:number][-4:]
        expected = len(recent) == 4 and all(requests > 0 and not moved for requests, moved in recent)
        assert watch.stalled(looks[number - 1][0], signs) == expected
