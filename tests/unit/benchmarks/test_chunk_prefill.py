"""The verdict and the segment maps of the chunk benchmark, without an engine."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.chunk_prefill import __main__ as chunk_prefill
from benchmarks.chunk_prefill.alone import Sample
from benchmarks.chunk_prefill.beside import Noticed
from benchmarks.chunk_prefill.prompts import spans_of
from mygo.vllm_plugin import spans


def _samples(cpu_s: dict[str, float]) -> list[Sample]:
    """Two rounds around these medians."""
    return [
        Sample(kind, number, seconds * factor, seconds * factor, 100, 100, 7, -0.5)
        for kind, seconds in cpu_s.items()
        for number, factor in enumerate((0.9, 1.1))
    ]


@pytest.mark.parametrize(
    ("cpu_s", "holds"),
    [
        ({}, True),
        ({"chunks": 2.4}, False),
        ({"capture": 10.6}, False),
        ({"miss": 10.4}, False),
    ],
)
def test_bounds_hold_only_if_all_do(cpu_s: dict[str, float], holds: bool) -> None:
    fine = {"cold": 10.0, "capture": 10.4, "chunks": 2.0, "device": 0.1, "miss": 10.2, "without": 10.0}
    console = Console(file=io.StringIO(), width=120)
    assert chunk_prefill.show(console, _samples(fine | cpu_s)) is holds


@pytest.mark.parametrize(("blended_s", "holds"), [(0.5, True), (0.54, True), (0.56, False)])
def test_streams_may_notice_a_tenth_more_of_a_blended_prompt(blended_s: float, holds: bool) -> None:
    noticed = {
        "idle": Noticed([0.05] * 100, [0.05], []),
        "blended": Noticed([0.05] * 90 + [blended_s] * 10, [blended_s], [0.5]),
        "computed": Noticed([0.05] * 50 + [0.5] * 50, [0.5], [3.0]),
    }
    console = Console(file=io.StringIO(), width=120)
    assert chunk_prefill.show_beside(console, noticed) is holds


def test_all_but_the_first_and_the_last_part_are_documents() -> None:
    parts = [[1, 2], [3, 4, 5], [3, 4, 5], [6]]
    found = spans.parse({"mygo": {"spans": spans_of(parts)}}, 9)
    assert found is not None
    assert [bool(span.tag) for span in found.spans] == [False, True, True, False]
    assert found.spans[1].tag == found.spans[2].tag and found.spans[1].key != found.spans[2].key
