from __future__ import annotations

import pytest

from mygo.blend.selection import Method, select


def test_select_takes_the_first() -> None:
    assert select(Method.FIRST_TOKENS, 10, 3) == [0, 1, 2]
    assert select(Method.FIRST_TOKENS, 10, 10) == list(range(10))
    assert select(Method.FIRST_TOKENS, 10, 0) == []


@pytest.mark.parametrize("count", [-1, 4])
def test_select_refuses_when_there_are_not_so_many(count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot select {count} of 3"):
        select(Method.FIRST_TOKENS, 3, count)
