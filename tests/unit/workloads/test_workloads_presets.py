"""Presets meet the figures that were published, and can be made small enough for a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mygo.errors import BadTrace
from mygo.workloads import PRESETS, Trace, describe, first, preset, scaled
from mygo.workloads.generate import generate
from mygo.workloads.statistics import TOP_SHARES, measures
from mygo.workloads.topics import Retrieval, Zipf, top_shares_by_law


@pytest.fixture(scope="module")
def small() -> Trace:
    return preset("ragpulse").trace(1, requests=200)


@pytest.mark.parametrize(
    ("name", "tolerances"),
    [
        (
            "ragpulse",
            {
                "chunk_hit": 0.01,
                "distinct_sets": 0.02,
                "ordered_prefix_hit": 0.015,
                "top_shares.3%": 0.03,
                "top_shares.10%": 0.02,
                "document.p90": 12,
                "output.mean": 10,
                "output.p50": 10,
                "prompt.mean": 100,
                "interarrival_cv": 0.4,
                "peak_factor": 0.5,
            },
        ),
        (
            "cachecraft",
            {"chunk_hit": 0.02, "distinct_sets": 0.03, "ordered_prefix_hit": 0.075, "prompt.p50": 100},
        ),
        ("pcr", {"chunk_hit_tokens": 0.02, "prompt.mean": 250, "output.mean": 0, "interarrival_cv": 0.1}),
    ],
)
def test_preset_meets_its_targets_at_full_size(name: str, tolerances: dict[str, float]) -> None:
    chosen = preset(name)
    found = measures(describe(chosen.trace(1)))
    for figure, tolerance in tolerances.items():
        assert found[figure] == pytest.approx(chosen.targets[figure], abs=tolerance), figure


@pytest.mark.parametrize("name", PRESETS)
def test_preset_names_its_source_and_only_figures_that_are_measured(name: str) -> None:
    chosen = PRESETS[name]
    assert chosen.recipe.name == name
    assert chosen.source
    known = {*measures(describe(chosen.trace(1, requests=30))), "peak_factor"}
    known |= {f"law.top_shares.{share:.0%}" for share in TOP_SHARES}
    assert set(chosen.targets) <= known


def test_law_of_shares_agrees_with_counting_a_long_trace() -> None:
    law = Retrieval(300, 80, 2, 5, Zipf(1.0), Zipf(0.5))
    recipe = replace(PRESETS["pcr"].recipe, retrieval=law, requests=8_000)
    counted = dict(describe(generate(recipe, 3)).top_shares)
    for share, expected in top_shares_by_law(law, 3, TOP_SHARES).items():
        assert counted[share] == pytest.approx(expected, abs=0.02)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(BadTrace, match="cachcraft: no such preset; did you mean cachecraft"):
        preset("cachcraft")


def test_scaled_trace_asks_for_the_same_at_another_rate_and_length(small: Trace) -> None:
    trace = scaled(small, rate_per_s=4.0, token_scale=0.25, output_scale=0.1)
    assert describe(trace).mean_rate_per_s == pytest.approx(4.0)
    assert describe(trace).interarrival_cv == pytest.approx(describe(small).interarrival_cv)
    assert [each.documents for each in trace.requests] == [each.documents for each in small.requests]
    for name, text in small.texts.items():
        assert trace.texts[name].tokens == max(1, round(text.tokens / 4))
    before, after = dict(describe(small).token_shares), dict(describe(trace).token_shares)
    assert after["documents"] == pytest.approx(before["documents"], abs=0.005)
    assert trace.parameters["scaled.rate_per_s"] == "4"
    assert trace.parameters["scaled.token_scale"] == "0.25"


def test_preset_is_scaled_like_its_trace(small: Trace) -> None:
    assert preset("ragpulse").trace(1, requests=200, token_scale=0.5) == scaled(small, token_scale=0.5)


def test_first_requests_keep_only_the_texts_they_name(small: Trace) -> None:
    trace = first(small, 5)
    assert trace.requests == small.requests[:5]
    assert set(trace.texts) == {
        name for each in trace.requests for name in (each.system, *each.documents, *each.history)
    }
    assert first(small, 10_000) == small


@pytest.mark.parametrize(
    ("figures", "message"),
    [({"rate_per_s": 0.0}, "rate_per_s: must be above 0"), ({"token_scale": -1.0}, "token_scale: must be")],
)
def test_scale_out_of_range_is_refused(small: Trace, figures: dict[str, float], message: str) -> None:
    with pytest.raises(BadTrace, match=message):
        scaled(small, **figures)
    with pytest.raises(BadTrace, match="requests: must be at least 1"):
        first(small, 0)
