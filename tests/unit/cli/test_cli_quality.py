"""``mygo cache quality`` against a server that answers on a socket."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from server_double import Server

from mygo.cli import main

PATH = "/v1/mygo/cache/quality"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def _bucket(state: str, alpha: float | None, mean_kl: float | None, **more: Any) -> dict[str, Any]:
    return {
        "bucket": 2,
        "need": [0.5, 0.75],
        "state": state,
        "alpha": alpha,
        "mean_kl": mean_kl,
        "top1_agreement": mean_kl and 0.875,
        "overlap": mean_kl and 0.9123,
        "observations": 41 if mean_kl else 0,
    } | more


WORKER = {
    "id": "w[1]",
    "answered": True,
    "guarded": True,
    "kl_bound": 0.12,
    "decisions": {"exact": 7, "shadow": 41, "blend": 0, "check": 0},
    "observations": 41,
    "buckets": [_bucket("unproven", 0.15, 0.0321), _bucket("off", None, None, need=[0.75, 1.0])],
    "documents_off": 2,
    "documents": [{"document_id": "f", "filename": "keen[1].md", "chunk": 3}],
}
REPORT = {
    "workers": [
        WORKER,
        {"id": "w2", "answered": False},
        {"id": "w3", "answered": True, "guarded": False},
    ]
}


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mygo", "cache", *arguments])
    return main()


def test_quality_prints_a_table_per_worker_and_the_documents_that_are_off(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET", PATH] = (200, REPORT)
    assert _run(monkeypatch, "quality", "--url", server.url) == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    table = lines.index("repair needed state alpha mean KL agreement overlap comparisons")
    assert " ".join(lines[:table]) == (
        "w[1] mean KL at most 0.12, 41 comparisons requests that could be blended, by how they were "
        "answered: exact 7, shadow 41, blend 0, check 0"
    )
    assert lines[table:] == [
        "repair needed state alpha mean KL agreement overlap comparisons",
        "50% to 75% unproven 0.15 0.0321 0.875 0.912 41",
        "75% to 100% off - - - - 0",
        "2 documents are not reused any more",
        "keen[1].md #3",
        "w2: did not answer",
        "w3: blends nothing (reuse.mode is exact)",
    ]


def test_quality_prints_json_when_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET", PATH] = (200, REPORT)
    assert _run(monkeypatch, "quality", "--url", server.url, "--json") == 0
    assert json.loads(capfd.readouterr().out) == REPORT


def test_quality_is_reset_when_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["DELETE", PATH] = (200, {"workers": []})
    assert _run(monkeypatch, "quality", "--reset", "--url", server.url) == 0
    assert "no worker is up" in capfd.readouterr().out


def test_reset_is_refused_when_it_is_not_of_quality(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "--reset", "--url", server.url) == 2
    assert "mygo cache quality --reset" in " ".join(capfd.readouterr().err.split())
