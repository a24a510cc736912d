"""What is asked when and of whom."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.manifest import known_groups
from benchmarks.harness.plan import (
    Load,
    Member,
    check_loads,
    groups,
    order,
    parse_load,
    refill,
    rounds,
    send_times_s,
)
from mygo.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "load", "name"),
    [
        ("closed:1", Load("closed", 1), "closed-1"),
        ("open:0.25", Load("open", 0.25), "open-0.25"),
        ("open:60%", Load("open", 60, relative=True), "open-60pct"),
    ],
)
def test_load_is_read_and_named(text: str, load: Load, name: str) -> None:
    assert parse_load(text) == load
    assert load.name == name


@pytest.mark.parametrize(
    "text", ["", "closed", "closed:0", "closed:1.5", "closed:50%", "open:0", "poisson:1"]
)
def test_load_is_refused_when_it_makes_no_sense(text: str) -> None:
    with pytest.raises(ConfigError, match="closed:N"):
        parse_load(text)


def test_relative_load_is_a_share_of_what_the_baseline_serves() -> None:
    assert parse_load("open:60%").rate(0.5) == pytest.approx(0.3)
    assert parse_load("open:0.4").rate(None) == 0.4
    assert parse_load("closed:2").rate(0.5) is None


def test_load_is_refused_when_it_is_given_twice() -> None:
    check_loads([Load("open", 60, relative=True), Load("closed", 1)])
    with pytest.raises(ConfigError, match="given twice"):
        check_loads([Load("closed", 1), Load("closed", 1)])


def test_systems_share_a_group_when_they_fit_in_memory() -> None:
    memory_gb = {"base": 3.0, "a": 3.0, "b": 7.0}
    assert groups(["a", "base", "b"], "base", memory_gb, 13.0) == [
        [Member("base", "base", 1), Member("a", "a", 1), Member("b", "b", 1)]
    ]


def test_baseline_is_repeated_when_systems_need_a_second_group() -> None:
    memory_gb = {"base": 3.0, "a": 3.0, "b": 7.0}
    assert groups(["base", "a", "b"], "base", memory_gb, 12.0) == [
        [Member("base", "base", 1), Member("a", "a", 1)],
        [Member("base@2", "base", 2), Member("b", "b", 2)],
    ]


def test_system_runs_beside_itself_when_named_twice() -> None:
    labels = [each.label for each in groups(["base", "base", "a", "a"], "base", {"base": 1, "a": 1}, 9.0)[0]]
    assert labels == ["base", "base#2", "a", "a#2"]


def test_systems_are_refused_when_two_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"base and big take about 12\.0 GB together and 8\.0 GB are free"):
        groups(["base", "big"], "base", {"base": 3.0, "big": 9.0}, 8.0)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.floats(4, 20))
def test_groups_hold_every_system_once_within_memory(extra: list[str], available_gb: float) -> None:
    memory_gb = {"base": 1.0, "a": 1.0, "b": 2.0, "c": 3.0}
    found = groups([*extra, "base"], "base", memory_gb, available_gb)
    labels = [member.label for members in found for member in members]
    assert len(labels) == len(set(labels))
    assert [member.system for members in found for member in members[1:]] == extra
    for members in found:
        assert members[0].system == "base"
        assert sum(memory_gb[member.system] for member in members) <= available_gb


def test_run_goes_on_with_its_groups_when_memory_has_changed() -> None:
    memory_gb = {"base": 3.0, "a": 3.0, "b": 7.0}
    before = groups(["base", "a", "b"], "base", memory_gb, 12.0)
    manifest = {"systems": [[asdict(member) | {"summary": ""} for member in members] for members in before]}
    assert known_groups(manifest, ["a", "base", "b"], "base") == before
    assert known_groups(manifest, ["base", "a"], "base") is None
    assert known_groups(manifest, ["a", "b", "base"], "a") is None
    assert known_groups(None, ["base"], "base") is None


def test_rounds_cut_the_trace_in_order() -> None:
    assert rounds(range(7), 3) == [range(3), range(3, 6), range(6, 7)]


def test_order_is_a_permutation_that_only_the_seed_decides() -> None:
    members = [Member(label, label, 1) for label in "abcdef"]
    turns = [order(members, seed=1, load="closed-1", round_number=number) for number in range(8)]
    assert turns == [order(members, seed=1, load="closed-1", round_number=number) for number in range(8)]
    assert all(sorted(m.label for m in turn) == list("abcdef") for turn in turns)
    assert len({tuple(m.label for m in turn) for turn in turns}) > 1
    assert turns != [order(members, seed=2, load="closed-1", round_number=number) for number in range(8)]


def test_arrivals_are_scaled_from_the_first_of_the_round() -> None:
    assert send_times_s([10.0, 11.0, 14.0], trace_rate=0.5, rate=0.25) == [0.0, 2.0, 8.0]


def test_refill_replays_twice_the_cache() -> None:
    assert refill([100] * 50, capacity_tokens=400) == 8
    assert refill([100] * 5, capacity_tokens=400) == 5
    assert refill([], capacity_tokens=400) == 0
