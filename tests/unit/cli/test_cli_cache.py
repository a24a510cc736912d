"""``mygo cache`` against a server that answers on a socket."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from server_double import Server

from mygo.cli import main


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def _node(number: int, parent: int | None, start: int, value_s: float, **more: Any) -> dict[str, Any]:
    return {
        "number": number,
        "parent": parent,
        "start_tokens": start,
        "tokens": 64,
        "held_tokens": {"host": 64},
        "frequency": 2.0,
        "value_s": value_s,
        "live": 0,
        "document": None,
    } | more


WORKER = {
    "id": "w[1]",
    "answered": True,
    "held_tokens": {"device": 128, "host": 256, "disk": 0},
    "capacity_tokens": {"device": 1024, "host": 2048, "disk": 0},
    "total_nodes": 7,
    "hidden_nodes": 1,
    "nodes": [
        _node(0, None, 0, 0.5),
        _node(1, 0, 64, 0.1, document={"document_id": "f", "filename": "dull.md", "chunk": 0}),
        _node(2, 0, 64, 0.2, document={"document_id": "f", "filename": "keen[1].md", "chunk": 3}, live=2),
        _node(3, 2, 128, 9.0, held_tokens={}),
    ],
}


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mygo", "cache", *arguments])
    return main()


def test_cache_prints_a_tree_with_the_most_valuable_branch_first(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = {"id": "w2", "answered": False}
    server.answers["GET", "/v1/mygo/cache"] = (200, {"workers": [WORKER, gone]})
    assert _run(monkeypatch, "--url", server.url) == 0
    printed = capfd.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert lines == [
        "w[1] tokens: device 128 of 1024, host 256 of 2048",
        "document in its path tokens device host disk times saves now",
        "- 64 - 64 - 2 0.500 s -",
        "keen[1].md #3 64 - 64 - 2 0.200 s 2",
        "- 64 - - - 2 9.000 s -",
        "dull.md #0 64 - 64 - 2 0.100 s -",
        "3 more are not shown (--top shows more)",
        "1 of the most valuable ones are other tenants'",
        "w2: did not answer",
    ]
    indents = [len(line) - len(line.lstrip()) for line in printed.splitlines()[2:6]]
    assert [indent - indents[0] for indent in indents] == [0, 2, 4, 2]
    assert max(map(len, printed.splitlines())) <= 80


def test_cache_prints_json_when_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET", "/v1/mygo/cache"] = (200, {"workers": [WORKER]})
    assert _run(monkeypatch, "--url", server.url, "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"workers": [WORKER]}
