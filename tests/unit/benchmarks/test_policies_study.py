from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.policies.__main__ import main
from benchmarks.policies.oracle import FarthestNextUse, Future
from benchmarks.policies.paths import replay_of
from benchmarks.policies.replay import Result, replay
from benchmarks.policies.report import beaten, lines
from benchmarks.policies.study import Run
from mygo.tree.policies import POLICIES
from mygo.workloads.presets import preset
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest


def linear_s(cached_tokens: int, new_tokens: int) -> float:
    return float(new_tokens)


def trace_of(*documents: str, question_tokens: int = 1) -> Trace:
    """A request per string, a document of 100 tokens per letter."""
    texts = {TextId(letter): Text(100) for letter in "".join(documents)} | {TextId("system"): Text(50)}
    requests = tuple(
        TraceRequest(number, float(number), TextId("system"), tuple(map(TextId, letters)), question_tokens, 1)
        for number, letters in enumerate(documents)
    )
    return Trace("letters", texts, requests)


def test_working_set_counts_each_text_once_in_its_path() -> None:
    found = replay_of(trace_of("ab", "ab", "ba"))
    assert found.working_set_tokens == 50 + 4 * 100
    assert [access.sizes for access in found.accesses[:2]] == [(50, 100, 100, 1)] * 2
    assert found.accesses[0].blocks[:3] == found.accesses[1].blocks[:3]
    assert found.accesses[0].blocks[3] != found.accesses[1].blocks[3], "questions never repeat"


def test_prefix_is_cached_only_as_far_as_documents_are_in_the_same_order() -> None:
    found = replay(replay_of(trace_of("ab", "ab", "ba")), 10_000, POLICIES["lru"], linear_s)
    assert found.cached_tokens == 250 + 50
    assert found.saved_s == 300 and found.cold_s == 3 * 251


def test_request_is_served_when_it_does_not_fit() -> None:
    found = replay(replay_of(trace_of("abcdef", "abcdef")), 260, POLICIES["lru"], linear_s)
    assert found.cached_tokens == 250


def test_oracle_keeps_what_comes_again_when_lru_does_not() -> None:
    """Scenario: three documents in turn, room for two of them."""
    trace = replay_of(trace_of("a", "b", "c", "a", "b", "c", "a", "b", "c"))
    future = Future(trace.accesses)
    best = replay(trace, 256, lambda *_: FarthestNextUse(future), linear_s, served=future.move_to)
    lru = replay(trace, 256, POLICIES["lru"], linear_s)
    assert (best.cached_tokens - lru.cached_tokens) >= 300
    assert lru.cached_tokens == 8 * 50


GOLDEN = {
    "lru": (132630, 134046, 136821, 139672),
    "lfu": (132362, 136267, 140224, 142541),
    "gdsf": (131038, 135323, 137434, 141859),
    "arc": (131766, 135721, 138429, 140960),
    "s3fifo": (130858, 133010, 136905, 141720),
    "pgdsf": (132791, 136631, 137888, 142246),
    "forecast": (131846, 135475, 140387, 143519),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_cached_tokens_are_the_golden_ones(policy: str) -> None:
    """Changing one of these is a change of what gets evicted: say why in the log."""
    trace = replay_of(preset("burst").trace(1, requests=150))
    sizes = (int(share * trace.working_set_tokens) for share in (0.05, 0.1, 0.2, 0.4))
    found = tuple(replay(trace, size, POLICIES[policy], linear_s).cached_tokens for size in sizes)
    assert found == GOLDEN[policy]


def run(policy: str, seed: int, saved_s: float) -> Run:
    return Run("w", seed, 0.1, policy, 100, Result(10, 5, 1_000, 500, 100.0, saved_s))


def test_gap_is_measured_from_lru_to_the_oracle() -> None:
    found = lines([run("lru", 1, 10.0), run("oracle", 1, 30.0), run("x", 1, 18.0), run("y", 1, 5.0)])
    closed = {line.policy: line.gap_closed for line in found}
    assert closed == {
        "y": pytest.approx(-0.25),
        "lru": 0.0,
        "x": pytest.approx(0.4),
        "oracle": pytest.approx(1.0),
    }


def test_default_is_beaten_only_beyond_noise() -> None:
    ours = [run("ours", seed, 20.0 + seed) for seed in range(5)]
    noisy = [run("noisy", seed, 20.1 + seed + (-1) ** seed) for seed in range(5)]
    better = [run("better", seed, 21.0 + seed) for seed in range(5)]
    assert beaten([*ours, *noisy], "ours") == []
    assert beaten([*ours, *better], "ours") == ["w at 10%: better saves 0.0100 more than ours"]


def test_command_writes_its_report(tmp_path: Path) -> None:
    arguments = "--presets burst --requests 40 --seeds 2 --sizes 0.1,0.3 --policies s3fifo --jobs 1 --out"
    assert main([*arguments.split(), str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {(line["policy"], line["size"]) for line in report["lines"]} == {
        (policy, size) for policy in ("lru", "s3fifo", "oracle") for size in (0.1, 0.3)
    }
    assert "## burst" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "policies.png").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--policies", "lur"], "did you mean lru"),
        (["--sizes", "2"], "no share of the working set"),
        (["--sizes", "a"], "no list of numbers"),
        (["--presets", "ragpuls"], "ragpulse"),
        (["--profile", "h100"], "does not exist"),
        (["--trace", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_command_says_what_is_wrong(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--seeds", "1", "--jobs", "1", "--out", str(tmp_path)]) == 2
    assert problem in capsys.readouterr().err
