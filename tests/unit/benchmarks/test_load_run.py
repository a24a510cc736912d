"""Whole load tests, against a server with one slot that says what a cluster says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from load_server import STREAM, event, last, sends, server
from rich.console import Console

from benchmarks.load import run as load_run
from benchmarks.load.board import Board
from benchmarks.load.client import LoadClient
from benchmarks.load.report import Result
from benchmarks.load.requests import Bodies
from benchmarks.load.run import LoadTest, run

SERVICE_S = 0.02


class _Numbers:
    """Bodies that hold their number."""

    def body(self, number: int) -> bytes:
        return str(number).encode()


def _json(value: Any) -> Sequence[bytes]:
    body = json.dumps(value).encode()
    return (
        f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode(),
        body,
    )


def _test(test: LoadTest, out: Path, running: int = 0) -> Result:
    """Run it; the server reports ``running`` requests in its worker whenever it is asked."""
    slot = asyncio.Semaphore(1)
    counts = {"running": running, "waiting": 0, "queued_tokens": 0}

    async def answer(writer: asyncio.StreamWriter, body: bytes, path: str) -> None:
        if path == "/v1/mygo/status":
            parts = _json({"workers": [{"id": "w1", **counts}]})
        else:
            async with slot:
                await asyncio.sleep(SERVICE_S)
            parts = (STREAM + event("a"), event(finish="stop") + last())
        await sends(*parts)(writer, body, path)

    async def whole() -> Result:
        async with server(answer) as url, LoadClient(url, api_key=None, timeout_s=20.0) as client:
            with Board(Console(quiet=True)) as board:
                return await run(
                    test, client, cast(Bodies, _Numbers()), None, {"profile": test.profile}, out, board
                )

    out.mkdir()
    return asyncio.run(whole())


def _raw(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]


def test_steady_load_keeps_a_line_per_request_and_finds_nothing_wrong(tmp_path: Path) -> None:
    found = _test(LoadTest("steady", rate=25.0, duration_s=0.8), tmp_path / "out")
    raw = _raw(tmp_path / "out")
    assert found.breaches == []
    assert found.whole.requests == len(raw) == sum(each.requests for each in found.intervals)
    assert {line["outcome"] for line in raw} == {"ok"}
    assert found.whole.worker_share == {"w1": 1.0}
    assert found.rate_at_slo is None


def test_ramp_finds_a_limit_when_requests_queue(tmp_path: Path) -> None:
    found = _test(LoadTest("ramp", rate=12.0, duration_s=0.4, seed=2), tmp_path / "out")
    assert found.breaches == []
    assert found.objective_s == pytest.approx(5 * found.steps[0].ttft.mean)
    slowest = max(found.steps, key=lambda step: step.ttft.mean)
    assert slowest.ttft.mean > found.objective_s
    assert found.rate_at_slo is not None and found.rate_at_slo < max(rate for rate, _ in found.tried)
    steps = {line["step"] for line in _raw(tmp_path / "out")}
    assert steps == set(range(len(found.steps)))


def test_request_that_a_worker_never_ends_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_run, "DRAIN_S", 0.2)
    found = _test(LoadTest("steady", rate=20.0, duration_s=0.3), tmp_path / "out", running=2)
    (breach,) = found.breaches
    assert "w1" in breach and "'running': 2" in breach
