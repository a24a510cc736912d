"""Settings that depend on each other, and names that stand in two places."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from mygo.config import CacheConfig, Config, parse
from mygo.errors import ConfigError
from mygo.tree.policies import DEFAULT_POLICY, POLICIES
from mygo.vllm_plugin.settings import TierSettings


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
