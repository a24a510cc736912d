"""Calibration files: the shipped ones say where they come from, wrong ones say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mygo.emulation import profile as profiles
from mygo.emulation import roofline
from mygo.errors import ConfigError


@pytest.mark.parametrize("name", profiles.shipped())
def test_shipped_profile_follows_from_the_derivation_in_it(name: str) -> None:
    profile = profiles.load(name)
    assert profile.name == name
    assert "data sheet" in profile.source
    assert roofline.derived_again(profile) == profile


def test_h100_profile_has_the_ratios_that_loading_is_judged_by() -> None:
    profile = profiles.load("llama-3-8b-h100")
    prefill_s_per_token = (profile.prefill.seconds[0][3] - profile.prefill.seconds[0][2]) / (2048 - 512)
    assert profile.kv_bytes_per_token == 128 * 1024
    assert prefill_s_per_token == pytest.approx(40e-6, rel=0.1)
    assert profile.host_load_s_per_token / prefill_s_per_token == pytest.approx(0.07, rel=0.15)
    assert profile.disk_load_s_per_token / prefill_s_per_token == pytest.approx(0.5, rel=0.15)


def test_a100_decodes_as_fast_as_measured_when_its_memory_is_scaled_to_the_measured_one() -> None:
    """75 tokens/s for one request on a 40 GB A100 (1.555e12 B/s), whose source the profile names."""
    profile = profiles.load("llama-3-8b-a100")
    weights_s = profile.decode.step_s - profile.derivation["step_overhead_s"]
    step_s = weights_s * 2.039 / 1.555 + profile.derivation["step_overhead_s"]
    assert 1 / step_s == pytest.approx(75, rel=0.1)


def test_profile_survives_a_file(tmp_path: Path) -> None:
    profile = profiles.load("llama-3-8b-a100")
    profiles.store(tmp_path / "mine.json", profile)
    assert profiles.load(str(tmp_path / "mine.json")) == profile


def test_roofline_rewrites_a_file_when_its_inputs_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    data = profiles.to_dict(profiles.load("llama-3-8b-h100"))
    data["derivation"]["host_bytes_per_s"] = 25e9
    path.write_text(json.dumps(data))
    assert roofline.main([str(path)]) == 0
    assert profiles.load(str(path)).host_load_s_per_token == pytest.approx(131072 / 25e9, rel=1e-3)


def test_roofline_explains_itself_when_the_derivation_is_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(profiles.to_dict(profiles.load("llama-3-8b-h100")) | {"derivation": {}}))
    assert roofline.main([str(path)]) == 2
    assert "derivation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"decode": {"step_s": 0.01}}, "decode must hold"),
        ({"decode": {"step_s": 0, "sequence_s": 0, "context_token_s": 0}}, "step_s must be positive"),
        ({"host_load_s_per_token": -1}, "host_load_s_per_token"),
        ({"disk_load_s_per_token": "fast"}, "disk_load_s_per_token"),
        ({"kv_bytes_per_token": 0}, "kv_bytes_per_token"),
        ({"prefill": {"cached_tokens": [0], "new_tokens": [1], "seconds": [[-1]]}}, "positive"),
        ({"prefill": []}, "prefill must hold"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_profile_is_refused_when_a_value_is_wrong(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(profiles.to_dict(profiles.load("llama-3-8b-h100")) | change))
    with pytest.raises(ConfigError, match=complaint) as error:
        profiles.load(str(path))
    assert "wrong.json" in str(error.value)


def test_profile_is_refused_when_a_key_is_missing_or_it_is_no_json(tmp_path: Path) -> None:
    data = profiles.to_dict(profiles.load("llama-3-8b-h100"))
    del data["prefill"]
    (tmp_path / "short.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="lacks 'prefill'"):
        profiles.load(str(tmp_path / "short.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="must hold an object"):
        profiles.load(str(tmp_path / "list.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json"):
        profiles.load(str(tmp_path / "broken.json"))


def test_profile_names_those_that_exist_when_it_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llama-3-8b-a100, llama-3-8b-h100"):
        profiles.load("llama-9-1t-b900")
    with pytest.raises(ConfigError, match="cannot be read"):
        profiles.load(str(tmp_path / "nowhere.json"))
