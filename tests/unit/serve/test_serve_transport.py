"""What every replica's process is started with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from mygo.serve import transport


def test_replicas_get_the_jobs_own_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: dict[str, Any] = {"pip": ["a-package"], "env_vars": {"HF_TOKEN": "hf"}}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env=jobs))
    given = transport.runtime_env()
    assert given["pip"] == ["a-package"]
    assert given["env_vars"] == {"HF_TOKEN": "hf"} | transport.ENVIRONMENT
    assert jobs["env_vars"] == {"HF_TOKEN": "hf"}


def test_replicas_get_the_transport_where_there_is_no_job_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert transport.runtime_env() == {"env_vars": transport.ENVIRONMENT}
