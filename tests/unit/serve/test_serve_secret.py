"""The cluster's secret: made once, private, never half there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mygo.serve.cluster_secret import cluster_secret


def test_secret_is_the_same_and_private_when_read_again(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret = cluster_secret(path)
    assert len(secret) == 32 and cluster_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600


def test_secret_is_made_anew_when_a_crash_or_a_full_disk_interrupted_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("os.fsync", full)
        cluster_secret(path)
    assert not path.exists()
    assert len(cluster_secret(path)) == 32
