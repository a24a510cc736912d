"""``mygo simulate`` from the outside: the same figures for the same seed, files, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mygo.cli import simulate as simulates
from mygo.errors import ConfigError
from mygo.simulation.planner import Slo
from mygo.simulation.sweep import Memory, Setting
from mygo.simulation.working_set import working_set_tokens
from mygo.vllm_plugin.settings import TierSettings
from mygo.workloads import preset


@pytest.fixture(scope="module")
def setting() -> Setting:
    trace = preset("ragpulse").trace(0, requests=40, token_scale=0.2, output_scale=0.05)
    return simulates.setting(trace, "llama-3-8b-h100", seed=0)


def without_wall(result: simulates.Result) -> dict[str, Any]:
    found = result.as_dict()
    for row in found["rows"]:
        del row["wall_s"]
    return found


def test_sweep_has_a_row_for_each_combination_and_repeats_itself(setting: Setting) -> None:
    grid = simulates.grid(setting, workers="1,2", kv_gb="1", rate="5", policy="predicted_seconds,round_robin")
    result = simulates.sweep(setting, grid)
    assert [(row.point.workers, row.point.policy) for row in result.rows] == [
        (1, "predicted_seconds"),
        (1, "round_robin"),
        (2, "predicted_seconds"),
        (2, "round_robin"),
    ]
    assert all(row.summary.requests == 40 for row in result.rows)
    assert without_wall(result) == without_wall(simulates.sweep(setting, grid))


def test_plan_keeps_its_promise_with_no_worker_to_spare(setting: Setting) -> None:
    grid = simulates.grid(setting, workers="4", kv_gb="1", rate="200")
    slo = Slo(0.1, 95)
    result = simulates.plan(setting, grid, slo, most_workers=64)
    workers = result.plans[Memory(1.0)].workers
    assert workers is not None and workers > 1
    by_workers = {row.point.workers: slo.met(row.summary) for row in result.rows}
    assert by_workers[workers] and not by_workers[workers - 1]


def test_files_are_written_once_and_say_that_they_are_emulated(setting: Setting, tmp_path: Path) -> None:
    grid = simulates.grid(setting, workers="1,2", kv_gb="1", rate="5")
    result = simulates.sweep(setting, grid)
    simulates.claim(tmp_path / "new")
    written = simulates.write(result, tmp_path / "new")
    assert [path.name for path in written] == ["simulation.json", "simulation.md", "simulation.png"]
    assert json.loads(written[0].read_text())["emulated"] is True
    assert "emulated" in written[1].read_text()
    assert written[2].stat().st_size > 1000
    with pytest.raises(ConfigError, match="is there already"):
        simulates.claim(tmp_path / "new")
    with pytest.raises(ConfigError, match="no folder can be there"):
        simulates.claim(written[0])


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        ({"workers": "x"}, "--workers 'x': must be whole numbers"),
        ({"kv_gb": "0"}, "--kv-gb: must be above 0"),
        ({"kv_gb": "inf"}, "--kv-gb: must be above 0 and finite"),
        ({"rate": "-2"}, "--rate: must be above 0"),
        ({"host": "much"}, "--host 'much': must be GB, or shares as 10%"),
        ({"disk": "-1"}, "--disk: must be 0 or more"),
    ],
)
def test_bad_lists_name_the_option(setting: Setting, lists: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        simulates.grid(setting, **{"workers": "1", "kv_gb": "1", **lists})


def test_sizes_are_gb_or_shares_of_the_working_set(setting: Setting) -> None:
    grid = simulates.grid(setting, workers="1", kv_gb="1", host="0,2.5,10%", disk="50%")
    working_set_gb = working_set_tokens(setting.trace) * setting.profile.kv_bytes_per_token / 1e9
    assert grid.host_gb == [0.0, 2.5, pytest.approx(working_set_gb / 10)]
    assert grid.disk_gb == [pytest.approx(working_set_gb / 2)]


def test_host_memory_and_disk_serve_what_the_device_has_given_up(setting: Setting) -> None:
    grid = simulates.grid(setting, workers="1", kv_gb="0.2", rate="5", host="0,5%", disk="0,100%")
    with pytest.raises(ConfigError, match="give host_gb, too"):
        simulates.sweep(setting, grid)
    grid = simulates.grid(setting, workers="1", kv_gb="0.2", rate="5", host="0,50%")
    without, with_host = simulates.sweep(setting, grid).rows
    assert without.summary.host_tokens == 0
    assert with_host.summary.host_tokens > 0
    assert with_host.summary.cached_tokens > without.summary.cached_tokens
    assert with_host.as_dict()["hit_by_tier"]["host"] > 0


def test_plan_answers_for_each_size_of_host_memory(setting: Setting) -> None:
    grid = simulates.grid(setting, workers="1", kv_gb="1", rate="50", host="0,1")
    result = simulates.plan(setting, grid, Slo(1.0), most_workers=4)
    assert list(result.plans) == [Memory(1.0), Memory(1.0, 1.0)]
    assert "1 GB in host memory" in str(Memory(1.0, 1.0))


def test_unknown_replacement_policy_names_the_known_ones(setting: Setting) -> None:
    with pytest.raises(ConfigError, match=r"--cache-policy 'best'.*lru"):
        simulates.setting(setting.trace, "llama-3-8b-h100", 0, TierSettings(policy="best"))
    with pytest.raises(ConfigError, match=r"--admission 'best'.*due"):
        simulates.setting(setting.trace, "llama-3-8b-h100", 0, TierSettings(admission="best"))


@pytest.mark.parametrize(
    ("policy", "order", "named"), [("best", "retrieval", "predicted_seconds"), ("round_robin", "x", "cache")]
)
def test_unknown_settings_name_the_known_ones(setting: Setting, policy: str, order: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        simulates.sweep(
            setting, simulates.grid(setting, workers="1", kv_gb="1", rate="5", policy=policy, order=order)
        )


def test_plan_takes_one_rate(setting: Setting) -> None:
    grid = simulates.grid(setting, workers="1", kv_gb="1", rate="5,6")
    with pytest.raises(ConfigError, match="--rate: a plan takes one value, not 2"):
        simulates.plan(setting, grid, Slo(1.0), most_workers=4)


@pytest.mark.parametrize(("ttft_s", "percentile"), [(0.0, 95), (1.0, 90)])
def test_promises_that_cannot_be_are_refused(ttft_s: float, percentile: int) -> None:
    with pytest.raises(ConfigError, match="must be"):
        simulates.promise(ttft_s, percentile)
