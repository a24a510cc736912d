"""A drive in virtual time: one chunk after the other, reads by deadline, writes when no read waits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.emulation.drive import Drive


def test_drive_reads_before_it_writes_but_ends_the_chunk_that_has_begun() -> None:
    drive = Drive(1.0)
    drive.write("w", 3, 0.0)
    assert drive.advance(0.5) == []
    drive.read("r", 2, 0.5)
    assert drive.next_end_s() == 3.0
    assert drive.advance(3.0) == ["r"]
    assert drive.next_end_s() == 5.0
    assert drive.advance(4.9) == []
    assert drive.advance(5.0) == ["w"]
    assert drive.next_end_s() is None


def test_drive_reads_the_earlier_deadline_first_when_both_wait() -> None:
    drive = Drive(1.0)
    drive.read("never", 1, 0.0)
    drive.read("late", 2, 0.0, 9.0)
    drive.read("soon", 1, 0.0, 5.0)
    assert drive.advance(2.0) == ["soon"]
    drive.read("sooner", 1, 2.0, 1.0)
    assert [drive.advance(at_s) for at_s in (3.0, 4.0, 5.0)] == [["late"], ["sooner"], ["never"]]


def test_drive_idles_until_something_comes() -> None:
    drive = Drive(1.0)
    drive.read("a", 1, 0.0)
    assert drive.advance(10.0) == ["a"]
    drive.read("b", 1, 10.0)
    assert drive.next_end_s() == 11.0


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.booleans(),
        st.integers(1, 4),
        st.sampled_from([1.0, 2.0, math.inf]),
    ),
    max_size=12,
)


@given(OPERATIONS)
def test_drive_ends_things_when_a_naive_one_does(raw: list[tuple[int, bool, int, float]]) -> None:
    """The naive drive goes from tick to tick; a chunk takes two of them."""
    operations = sorted(raw, key=lambda entry: entry[0])
    left = {number: chunks for number, (_, _, chunks, _) in enumerate(operations)}
    ends: dict[int, int] = {}
    waiting: set[tuple[bool, float, int]] = set()
    current: tuple[bool, float, int] | None = None
    until = 0
    for tick in range(200):
        if current is not None and until == tick:
            left[current[2]] -= 1
            if not left[current[2]]:
                ends[current[2]] = tick
                waiting.remove(current)
            current = None
        coming = [number for number, entry in enumerate(operations) if entry[0] == tick]
        for number in [None, *coming]:
            if number is not None:
                _, is_read, _, deadline_s = operations[number]
                waiting.add((not is_read, deadline_s if is_read else 0.0, number))
            if current is None and waiting:
                current, until = min(waiting), tick + 2
    drive = Drive(2.0)
    found: dict[int, int] = {}
    for tick in range(200):
        for name in drive.advance(float(tick)):
            assert isinstance(name, int)
            found[name] = tick
        for number, (at, is_read, chunks, deadline_s) in enumerate(operations):
            if at == tick:
                drive.advance(float(tick))
                if is_read:
                    drive.read(number, chunks, float(tick), deadline_s)
                else:
                    drive.write(number, chunks, float(tick))
    assert found == ends


@pytest.mark.parametrize("deadline_s", [1.0, math.inf])
def test_next_end_is_when_the_next_thing_ends_if_nothing_else_comes(deadline_s: float) -> None:
    drive = Drive(0.5)
    drive.write("w", 2, 0.0)
    drive.read("r", 3, 0.0, deadline_s)
    while (next_s := drive.next_end_s()) is not None:
        assert drive.advance(math.nextafter(next_s, 0.0)) == []
        assert len(drive.advance(next_s)) == 1
