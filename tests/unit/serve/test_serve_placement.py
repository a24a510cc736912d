"""Workers of one machine compute on disjoint cores as long as there are enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygo.serve.placement import cores_of


@given(workers=st.integers(1, 16), cores=st.integers(1, 64))
def test_cores_of_are_disjoint_when_there_is_a_core_for_every_worker(workers: int, cores: int) -> None:
    shares = [cores_of(rank, workers, range(cores)) for rank in range(workers)]
    assert all(shares)
    used = [core for share in shares for core in share]
    if workers <= cores:
        assert len(used) == len(set(used))
    else:
        assert set(used) == set(range(cores))


def test_cores_of_two_workers_differ_when_there_are_two_cores() -> None:
    assert cores_of(0, 2, [0, 1]) == [0]
    assert cores_of(1, 2, [0, 1]) == [1]


def test_cores_of_respects_an_affinity_mask_when_cores_are_not_numbered_from_zero() -> None:
    assert cores_of(1, 2, [4, 5, 6, 7]) == [6, 7]


def test_cores_of_wraps_when_a_rolling_update_hands_out_higher_ranks() -> None:
    assert cores_of(2, 2, [0, 1]) == cores_of(0, 2, [0, 1])


def test_cores_of_refuses_when_there_are_no_cores() -> None:
    with pytest.raises(ValueError, match="no cores"):
        cores_of(0, 1, [])
