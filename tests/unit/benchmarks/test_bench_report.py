"""Figures, comparisons and tables, from records made by hand."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_records import record, round_record

from benchmarks.bootstrap import ratio
from benchmarks.harness.records import Record, RoundRecord, RunFolder
from benchmarks.report.compare import agreement, compare, slo_s, throughput_at_slo
from benchmarks.report.figures import figures, spread
from benchmarks.report.summary import summarise
from benchmarks.report.write import write_report
from mygo.errors import ConfigError


def test_figures_add_up() -> None:
    records = [
        record("a", 0, 1.2, cached_tokens=40, queue_s=0.5, prefill_s=0.5),
        record("a", 1, 2.2, cached_tokens=20, queue_s=0.5, prefill_s=1.5),
        record("a", 2, 9.0, error="RuntimeError: broke off"),
    ]
    rounds = [
        round_record(
            "a", 0, cached_tokens={"device": 30, "host": 10}, load_s=0.4, cpu_s=3.0, others_cpu_s=0.4
        ),
        round_record("a", 1, cached_tokens={"device": 15, "host": 5}, cpu_s=3.0),
    ]
    found = figures(records, rounds)
    assert (found.requests, found.failed) == (2, 1)
    assert (found.prompt_tokens, found.computed_tokens) == (200, 140)
    assert found.cached_ratio == pytest.approx({"device": 0.225, "host": 0.075})
    assert found.served_rate == pytest.approx(2 / 8)
    assert found.cpu_s == pytest.approx(2.0)
    assert found.others_cores == pytest.approx(0.05)
    stages = found.stages_s
    assert stages["load"] == pytest.approx(0.2)
    assert stages["queue"] == pytest.approx(0.3)
    assert stages["decode"] == pytest.approx(1.0)
    assert sum(stages.values()) - stages["decode"] == pytest.approx(found.ttft.mean)


def test_cached_tokens_are_all_of_the_device_when_nothing_else_is_said() -> None:
    found = figures([record("a", 0, 1.0, cached_tokens=50)], [round_record("a", 0)])
    assert found.cached_ratio == {"device": 0.5}


def test_spread_of_no_gaps_is_zero() -> None:
    assert spread([]).p99 == 0.0


def test_ratio_is_one_within_its_interval_when_both_sides_are_the_same_system() -> None:
    rng = random.Random(3)
    cost = [[rng.lognormvariate(0, 1) for _ in range(12)] for _ in range(20)]
    sides = [[[each * rng.gauss(1, 0.05) for each in block] for block in cost] for _ in range(2)]
    found = ratio(np.mean, *sides)
    assert found.low < 1 < found.high
    assert found.half_width < 0.05


def test_ratio_tells_a_faster_system() -> None:
    found = ratio(np.median, [[1.0, 2.0, 3.0], [2.0, 2.0]], [[2.0, 4.0, 6.0], [4.0, 4.0]])
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0), rel=0.5)
    assert found.estimate == pytest.approx(2.0)


def test_ratio_is_refused_without_rounds() -> None:
    with pytest.raises(ValueError, match="equally many rounds"):
        ratio(np.mean, [], [])


def test_comparison_leaves_out_requests_that_one_side_failed() -> None:
    ours = [record("a", n, 1.0) for n in range(4)]
    theirs = [record("b", n, 2.0) for n in range(3)] + [record("b", 3, 99.0, error="x")]
    found = compare(ours, theirs)
    assert found is not None
    assert found.ttft_mean.estimate == pytest.approx(2.0)
    assert found.rounds == 2
    assert compare(ours, [record("b", 9, 1.0)]) is None


def test_agreement_counts_equal_answers_and_finds_where_others_part() -> None:
    ours = [
        record("a", 0, 1.0),
        record("a", 1, 1.0, output_ids=[1, 9, 3]),
        record("a", 2, 1.0, output_ids=[8]),
    ]
    theirs = [record("b", n, 1.0) for n in range(4)]
    found = agreement(ours, theirs)
    assert (found.requests, found.identical, found.first_divergence) == (3, 1, 0.5)
    assert agreement(theirs, theirs).first_divergence is None


def test_throughput_at_slo_ends_at_the_first_rate_above_the_objective() -> None:
    by_rate = {0.2: 1.0, 0.4: 4.9, 0.6: 5.1, 0.8: 2.0}
    assert slo_s(by_rate) == 5.0
    assert throughput_at_slo(by_rate, 5.0) == 0.4
    assert throughput_at_slo(by_rate, 0.5) is None


def manifest(**changes: Any) -> dict[str, Any]:
    def member(label: str, system: str, **more: Any) -> dict[str, Any]:
        return {
            "label": label,
            "system": system,
            "group": 1,
            "summary": "a system",
            "keeps_order": True,
        } | more

    return {
        "commit": "abc",
        "machine": "a CPU, 2 cores",
        "trace": "ragpulse",
        "trace_digest": "123",
        "requests": 4,
        "longest_answer": 3,
        "seed": 1,
        "loads": [{"name": name, "per_round": 2, "rounds": 2} for name in ("closed-1", "open-0.5", "open-1")],
        "systems": [
            [member("vllm", "vllm"), member("mygo", "mygo"), member("other", "other", keeps_order=False)]
        ],
        "engine": {
            "source": "demo",
            "dtype": "bfloat16",
            "block_tokens": 32,
            "step_tokens": 288,
            "long_prefill_tokens": 256,
            "max_context_tokens": 4096,
        },
        "engine_cores": [1],
        "other_cores": [0],
        "device_kv_tokens": 1000,
        "host_kv_tokens": 4000,
        "throttle": None,
    } | changes


def served() -> tuple[dict[tuple[str, str], list[Record]], dict[tuple[str, str], list[RoundRecord]]]:
    ttft_s = {"vllm": 2.0, "mygo": 1.0, "other": 1.5}
    records: dict[tuple[str, str], list[Record]] = {}
    rounds: dict[tuple[str, str], list[RoundRecord]] = {}
    for load, rate, slower in (("closed-1", None, 1), ("open-0.5", 0.5, 2), ("open-1", 1.0, 12)):
        for label, seconds in ttft_s.items():
            records[label, load] = [record(label, n, slower * seconds, load=load) for n in range(4)]
            rounds[label, load] = [round_record(label, n, load=load, rate=rate) for n in range(2)]
    return records, rounds


def test_summary_compares_each_system_with_the_baseline_of_its_group() -> None:
    records, rounds = served()
    found = summarise(manifest(), lambda *key: records.get(key, []), lambda *key: rounds.get(key, []))
    rows = {row.label: row for row in found.rows}
    assert rows["vllm"].cells["closed-1"].comparison is None
    comparison = rows["mygo"].cells["closed-1"].comparison
    assert comparison is not None
    assert comparison.ttft_mean.estimate == pytest.approx(2.0)
    assert rows["mygo"].cells["closed-1"].agreement is not None
    assert rows["other"].cells["closed-1"].agreement is None, "it answers another prompt"
    # 5 x 4.0 s for all: vllm needs 24 s at 1 request/s, mygo 12 s
    assert found.slo_s == 20.0
    assert (rows["vllm"].slo_rate, rows["mygo"].slo_rate) == (0.5, 1.0)
    assert rows["mygo"].own_slo_rate == 0.5
    assert found.missing == 0


def test_report_is_written_with_every_plot(tmp_path: Path) -> None:
    records, rounds = served()
    with RunFolder.opened(tmp_path, manifest()) as run:
        for key, kept in rounds.items():
            for each in kept[: 1 if key == ("mygo", "open-1") else 2]:
                run.add(each, [one for one in records[key] if one.round == each.round])
    text = write_report(tmp_path)
    assert "| system | closed-1 | open-0.5 | open-1 |" in text
    assert "| vllm | 1 | 1 | 1 |" in text
    assert "| mygo | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) |" in text
    assert "1 rounds are missing" in text
    pictures = {each.name for each in tmp_path.glob("*.png")}
    assert pictures == {"ttft_cdf.png", "ttft_load.png", "hit_ratio.png", "ratios.png", "stages.png"}
    assert all(f"({name})" in text for name in pictures)
    assert (tmp_path / "report.json").exists()


def test_report_is_refused_when_the_folder_has_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(tmp_path / "nothing")
