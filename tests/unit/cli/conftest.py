from collections.abc import Iterator
from pathlib import Path

import pytest
from server_double import Server


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MYGO_URL", raising=False)
    monkeypatch.delenv("MYGO_DEBUG", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()
