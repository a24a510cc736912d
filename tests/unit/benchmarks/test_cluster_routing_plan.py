"""What the cluster routing comparison runs, keeps and concludes."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster_routing.__main__ import main
from benchmarks.cluster_routing.compare import best_baseline, lines, worse
from benchmarks.cluster_routing.measure import Ground, Setting, Task, recomputed_tokens, run
from benchmarks.cluster_routing.plan import (
    FULL,
    NEVER,
    OURS,
    RAYS,
    SMOKE,
    UNTUNED,
    Cell,
    Size,
    Variant,
    affinity_grid,
    best_variant,
    cells,
    device_tokens,
    rays_own,
    trace_of,
    weight_variants,
    working_set_tokens,
)
from benchmarks.cluster_routing.report import as_dict, markdown
from benchmarks.cluster_routing.store import Store
from benchmarks.cluster_routing.study import CellRuns
from mygo.errors import ConfigError, MygoError
from mygo.simulation.outcome import Served
from mygo.types import WorkerId
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest

SETTING = Setting("llama-3-8b-h100", 0.1, 1 / 3)
GROUND = Ground(requests=24, device_tokens=20_000, working_set_tokens=40_000, saturation_per_s=20.0)


def small_trace() -> Trace:
    """a, b; a, b; b, a; a, c: behind the system prompt, only `a` first and `b` second come twice."""
    tokens = {"system": 32, "a": 64, "b": 96, "c": 128}
    texts = {TextId(name): Text(count) for name, count in tokens.items()}
    orders = (("a", "b"), ("a", "b"), ("b", "a"), ("a", "c"))
    requests = [
        TraceRequest(i, float(i), TextId("system"), tuple(TextId(each) for each in order), 10, 5)
        for i, order in enumerate(orders)
    ]
    return Trace("small", texts, tuple(requests))


def served(number: int, cached_tokens: int) -> Served:
    return Served(number, WorkerId("w"), float(number), 0, 0, 0.1, 0.2, (), 200, 160, cached_tokens, 0, 5)


def rows(*means: float) -> list[dict[str, Any]]:
    return [
        {
            **{f"ttft_{name}_s": mean for name in ("mean", "p50", "p95", "p99")},
            "hit_ratio": 0.5,
            "recomputed_tokens": 10,
            "document_tokens": 100,
            "least_share": 0.1,
            "largest_share": 0.2,
        }
        for mean in means
    ]


def runs(**means: tuple[float, ...]) -> CellRuns:
    """A cell in which every baseline takes 2 s on each of three seeds, unless told otherwise."""
    best = Variant("prefix_affinity", {"affinity_min_match": 0.1, "affinity_imbalance": 8})
    names = (*UNTUNED, best.label, rays_own(best).label, RAYS)
    found = {OURS: rows(1.0, 1.1, 0.9)} | {name: rows(2.0, 2.2, 1.8) for name in names}
    found |= {name: rows(*each) for name, each in means.items()}
    return CellRuns(Cell("burst", 8, 0.6), GROUND, best, found)


def test_working_set_counts_a_document_only_when_its_prefix_recurs() -> None:
    assert working_set_tokens(small_trace()) == 32 + 64 + 96


def test_device_tokens_hold_several_of_the_largest_prompt_when_the_share_is_small() -> None:
    largest = 32 + 64 + 128 + 10 + 5
    assert device_tokens(small_trace(), 0.01) == 4 * largest
    assert device_tokens(small_trace(), 100) == 19_200


def test_recomputed_tokens_leave_out_first_touches_and_partial_blocks() -> None:
    # the second request recomputes b: its prefix system + a (96 tokens) is cached
    found = recomputed_tokens([served(1, 96), served(0, 0), served(3, 0)], small_trace(), 64)
    # b ends at 192, a whole number of blocks; of a (32 to 96), the third asks 32 tokens up to 64
    assert found == (192 - 96) + 32


def test_trace_keeps_a_constant_mean_rate_when_the_preset_has_days() -> None:
    trace = trace_of("ragpulse", 400, 1, 0.1)
    half_s = trace.duration_s / 2
    early = sum(request.arrival_s < half_s for request in trace.requests)
    assert 0.3 < early / len(trace.requests) < 0.7


def test_variants_have_different_labels_within_a_cell() -> None:
    for size in (SMOKE, FULL):
        for cell in cells(size):
            variants = [*affinity_grid(size), *weight_variants(size, cell), Variant(OURS)]
            assert len({each.label for each in variants}) == len(variants)
    assert Variant("prefix_affinity", {"affinity_imbalance": NEVER}).label == "prefix_affinity imbalance=off"


def test_weights_are_swept_at_the_middle_load_only() -> None:
    swept = {cell.load for cell in cells(FULL) if weight_variants(FULL, cell)}
    assert swept == {0.6}


def test_prefix_tree_remembers_what_a_cache_holds_unless_told_otherwise() -> None:
    assert Variant("prefix_affinity").routing(1000).affinity_tree_chars == 4000
    assert Variant("prefix_affinity", {"affinity_tree_chars": 7}).routing(1000).affinity_tree_chars == 7


def test_best_variant_has_the_least_mean_when_single_seeds_disagree() -> None:
    first, second = Variant("prefix_affinity", {"affinity_imbalance": 4}), Variant("prefix_affinity")
    assert best_variant({first.label: [1.0, 4.0], second.label: [2.0, 2.0]}, [first, second]) == second


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loads": (0.0,)}, "loads"),
        ({"workers": (1,)}, "workers"),
        ({"seeds": 0}, "seeds"),
        ({"presets": ("ragpuls",)}, "ragpulse"),
    ],
)
def test_size_refuses_what_cannot_be_run(changes: dict[str, Any], named: str) -> None:
    fields = {name: getattr(SMOKE, name) for name in Size.__dataclass_fields__}
    with pytest.raises(MygoError, match=named):
        Size(**(fields | changes))


def test_comparison_names_the_baseline_that_beats_ours_when_the_interval_says_so() -> None:
    compared = lines(runs(round_robin=(0.5, 0.55, 0.45)))
    assert [each.label for each in worse(compared)] == ["round_robin"]
    assert best_baseline(compared).label == "round_robin"
    ratio = compared[1].mean_ratio
    assert ratio is not None and ratio.estimate == pytest.approx(0.5)


def test_comparison_leaves_it_open_when_seeds_disagree() -> None:
    compared = lines(runs(round_robin=(0.5, 2.0, 0.4)))
    assert worse(compared) == []


def test_comparison_pairs_seeds_when_a_variant_has_only_the_first_ones() -> None:
    found = runs(power_of_two=(2.0,))
    ratio = lines(found)[2].mean_ratio
    assert ratio is not None and ratio.estimate == pytest.approx(2.0)


def test_report_says_slower_when_a_baseline_wins() -> None:
    text = markdown([runs(round_robin=(0.5, 0.55, 0.45))], SETTING, "Commit c", ["ratios.png"], "Checked.")
    assert "**Slower** than a baseline (1 of 1): burst, 8 workers, load 0.6: round_robin 0.50" in text
    assert as_dict([runs()], SETTING, "c")["cells"][0]["rows"][OURS][0]["ttft_mean_s"] == 1.0


def test_report_orders_thresholds_by_the_seeds_that_all_have() -> None:
    """Scenario: the winner ran on all seeds, the later ones of which were slow; another has the first."""
    winner, other = "prefix_affinity min_match=0.1 imbalance=8", "prefix_affinity min_match=0.4 imbalance=8"
    slow = {winner: (1.0, 9.0, 9.0), other: (2.0,), RAYS: (3.0,)}
    text = markdown([runs(**slow)], SETTING, "Commit c", [], "Checked.")
    assert f"min_match=0.1 imbalance=8: 1.000 s, min_match=0.4 imbalance=8: 2.000 s, {RAYS}: 3.000 s" in text


def test_report_gives_no_interval_when_a_weight_ran_on_one_seed() -> None:
    text = markdown([runs(**{f"{OURS} recompute_weight=0": (1.5,)})], SETTING, "Commit c", [], "Checked.")
    assert "0: 1.50 (one seed)" in text


def test_store_goes_on_when_the_last_line_was_cut(tmp_path: Path) -> None:
    Store(tmp_path / "s", {"a": 1}).add("one", {"x": 1})
    with (tmp_path / "s" / "runs.jsonl").open("a") as file:
        file.write('{"key": "tw')
    store = Store(tmp_path / "s", {"a": 1})
    store.add("two", {"x": 2})
    assert Store(tmp_path / "s", {"a": 1}).rows == {"one": {"x": 1}, "two": {"x": 2}}


def test_store_refuses_a_folder_of_another_study(tmp_path: Path) -> None:
    Store(tmp_path / "s", {"commit": "a"})
    with pytest.raises(ConfigError, match=r"another commit \(a, not b\)"):
        Store(tmp_path / "s", {"commit": "b"})
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="holds no study"):
        Store(tmp_path, {})


def test_main_refuses_a_list_that_has_no_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--workers", "many", "--out", str(tmp_path / "x")]) == 2
    assert "--workers: 'many'" in capsys.readouterr().err


def test_run_repeats_exactly_and_keeps_every_request(tmp_path: Path) -> None:
    task = Task(SETTING, GROUND, Cell("burst", 2, 0.6), Variant(OURS), seed=3)
    raw = tmp_path / "raw.csv.gz"
    first = run(task, raw)
    kept = raw.read_bytes()
    assert run(task, raw) == first and raw.read_bytes() == kept
    requests = list(csv.DictReader(gzip.decompress(kept).decode().splitlines()))
    mean_s = sum(float(each["ttft_s"]) for each in requests) / len(requests)
    assert len(requests) == 24 and mean_s == pytest.approx(first["ttft_mean_s"], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--min-matches", "nan"], "min_matches: must be between 0 and 1, not nan"),
        (["--imbalances", "-1"], "imbalances: must be at least 1, not -1"),
        (["--recompute-weights", "inf"], "recompute_weights: must be 0 or more"),
        (["--loads", "nan"], "loads: must be between 0 and 2"),
        (["--presets", "nope"], "no such preset"),
        (["--profile", "nope"], "'nope' does not exist"),
        (["--out", __file__], "no folder can be there"),
    ],
)
def test_main_says_what_is_wrong_in_one_line(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "study"), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1


@pytest.mark.ray
def test_main_runs_a_study_once_and_reports_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.cluster_routing.__main__.revision", lambda: "commit")
    arguments = ["--presets", "burst", "--workers", "2", "--seeds", "2", "--requests-per-worker", "12"]
    arguments += ["--min-matches", "0.1", "--recompute-weights", "0", "--out", str(tmp_path / "study")]
    assert main(arguments) == 0
    kept = (tmp_path / "study" / "runs.jsonl").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "study" / "runs.jsonl").read_text() == kept
    report = json.loads((tmp_path / "study" / "report.json").read_text())
    assert len(report["cells"][0]["lines"]) == 6
    assert (tmp_path / "study" / "ratios.png").stat().st_size > 10_000
