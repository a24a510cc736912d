"""What tests of several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shared machine is slow at times; that is never what a test is about.
settings.register_profile("mygo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mygo")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's checkpoint, made once per machine. ``MYGO_TEST_MODEL`` names another."""
    chosen = os.environ.get("MYGO_TEST_MODEL")
    if chosen:
        return Path(chosen)
    from mygo import models
    from mygo.config import ClusterConfig

    return models.resolve("demo:smollm2-135m-instruct", ClusterConfig().cache_dir)
