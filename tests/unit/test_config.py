"""Settings that depend on each other, and names that stand in two places."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from mygo.blend.selection import Method
from mygo.config import CacheConfig, Config, ReuseConfig, load, parse
from mygo.errors import ConfigError
from mygo.tree.policies import DEFAULT_POLICY, POLICIES
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings


def test_cache_policies_are_those_of_the_tree() -> None:
    """A new policy is offered by ``CacheConfig.policy`` and ``device_policy``, too."""
    fields = CacheConfig.model_fields
    assert set(get_args(fields["policy"].annotation)) == set(POLICIES)
    assert set(get_args(fields["device_policy"].annotation)) == {"vllm", *POLICIES}


def test_cache_defaults_are_the_plugins_but_for_the_sizes() -> None:
    ours, plugins = Config().cache, TierSettings()
    assert ours.policy == plugins.policy == DEFAULT_POLICY
    for name in set(CacheConfig.model_fields) - {"host_bytes", "disk_bytes", "policy"}:
        assert getattr(ours, name) == getattr(plugins, name), name


def test_disk_folder_is_expanded_when_it_is_in_the_home_folder() -> None:
    assert parse({"cache": {"disk_path": "~/kv"}}).cache.disk_path == Path.home() / "kv"


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"host_bytes": 0, "disk_path": "/kv"}, "set host_bytes, too"),
        ({"host_bytes": -1}, "cache.host_bytes: .*greater than or equal to 0"),
        ({"disk_bytes": 0}, "cache.disk_bytes: .*greater than 0"),
        ({"policy": "pgds"}, "cache.policy: .*'pgdsf'"),
        ({"lookahead_share": 1.5}, "cache.lookahead_share: .*less than or equal to 1"),
        ({"host_byte": 1}, "cache.host_byte: unknown key, did you mean host_bytes?"),
    ],
)
def test_cache_setting_that_cannot_be_is_refused_and_named(cache: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"cache": cache})


@pytest.mark.parametrize(
    ("share", "cache", "message"),
    [
        (
            0.01,
            {},
            r"^config: reuse\.chunk_share: 0\.01 of cache\.host_bytes .*documents less than 16 MiB; set it "
            r"between 0\.0157 and 0\.9843, or to 1 .* or raise cache\.host_bytes",
        ),
        (0.99, {}, "leaves prompts less than 16 MiB; set it between 0.0157 and 0.9843, or to 1 "),
        (1, {"host_bytes": 2**23}, "less than 16 MiB; raise cache.host_bytes to 16777216"),
        (0.5, {"host_bytes": 2**25 - 1}, "raise cache.host_bytes to 33554432"),
        (0.5, {"disk_path": "/kv", "disk_bytes": 2**24}, "raise cache.disk_bytes to 33554432"),
        (
            0.02,
            {"disk_path": "/kv", "disk_bytes": 2**28},
            "0.02 of cache.disk_bytes .* between 0.0625 and 0.9375",
        ),
    ],
)
def test_share_of_chunks_that_leaves_either_side_nothing_is_refused_with_what_could_be(
    share: float, cache: dict[str, Any], message: str
) -> None:
    def blending(chunk_share: float) -> Config:
        return parse({"cache": cache, "reuse": {"mode": "blend", "chunk_share": chunk_share}})

    with pytest.raises(ConfigError, match=message) as refused:
        blending(share)
    for possible in re.findall(r"between ([\d.]+) and ([\d.]+)", str(refused.value)):
        assert all(blending(float(each)) for each in possible)
    assert parse({"cache": cache, "reuse": {"chunk_share": share}}), (
        "where nothing is blended it does not matter"
    )


def test_key_that_was_replaced_names_what_to_write_instead() -> None:
    with pytest.raises(ConfigError) as refused:
        parse({"reuse": {"host_bytes": 1, "disk_bytes": 2, "mod": "blend"}})
    first, second, third = str(refused.value).splitlines()
    assert first.startswith(
        "config: reuse.host_bytes: documents' KV lies in cache.host_bytes now; set reuse.chunk_share"
    )
    assert second.startswith("config: reuse.disk_bytes: documents' KV lies in cache.disk_bytes now")
    assert third == "config: reuse.mod: unknown key, did you mean mode?"


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("cluster", "data_dir"),
        ("cluster", "cache_dir"),
        ("cache", "disk_path"),
        ("model", "source"),
        ("embedder", "source"),
        ("retrieval", "reranker"),
        ("workers", "emulated_profile"),
    ],
)
def test_path_with_a_variable_without_braces_is_refused(section: str, key: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{section}\.{key}: \$HOME is not replaced; write \$\{{HOME\}}, with"
    ):
        parse({section: {key: "$HOME/kv"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: [1,\n", "config.yaml: line 2, column 1: "),
        ("workers:\n\treplicas: 2\n", "line 2, column 1: .*; indent with spaces"),
        ("workers:\n  replicas: 2\nworkers:\n  device: cpu\n", "line 3, column 1: workers stands twice"),
        ("workers:\n  replicas: 2\n  replicas: 3\n", "line 3, column 3: replicas stands twice"),
        ("workers: 3\n", "workers: is a section, with keys .*: replicas, "),
        ("- workers\n", "must hold sections, .*not a list"),
        ("http:\n  api_keys:\n    ${MYGO_TEST_UNSET}: a\n", "environment has no MYGO_TEST_UNSET; set it"),
        ("http:\n  api_keys:\n    '': a\n", "http.api_keys: a key is empty"),
    ],
)
def test_file_that_says_something_else_than_it_seems_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_variables_are_taken_from_the_environment_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in a value is YAML, and a dollar that names no variable in braces is a dollar."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "# ${MYGO_TEST_UNSET} in a comment\n"
        "http: {port: '${MYGO_TEST_PORT}', api_keys: {'${MYGO_TEST_KEY}': a}}\n"
        "prompt: {system: Costs $HOME}\n"
    )
    monkeypatch.setenv("MYGO_TEST_PORT", "8123")
    monkeypatch.setenv("MYGO_TEST_KEY", "sk: '#1'")
    config = load(path)
    assert (config.http.port, config.http.api_keys) == (8123, {"sk: '#1'": "a"})
    assert config.prompt.system == "Costs $HOME"


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        load(path)
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


def test_every_way_to_choose_tokens_can_be_configured() -> None:
    assert get_args(ReuseConfig.model_fields["method"].annotation) == tuple(Method)
    assert ReuseConfig().method == ChunkSettings().method
