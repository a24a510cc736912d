"""The commands as a user meets them: exit codes, one-line errors, and a server that answers on a socket."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from server_double import Server

from mygo.cli import app, main
from mygo.cli.ask import Question, Reply, ask, choose_store
from mygo.cli.client import Client
from mygo.cli.demo import Pair, judge
from mygo.cli.terminal import silent
from mygo.errors import BadRequest, NotFound, TooLarge, Unauthorized, Unavailable

USAGE = {"prompt_tokens": 100, "cached_tokens": {"device": 64, "host": 16, "disk": 0}}


def events(*chunks: dict[str, Any], done: bool = True) -> str:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join(lines) + ("data: [DONE]\n\n" if done else "")


def delta(text: str, finish_reason: str | None = None, **extra: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}], **extra}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mygo", *arguments])
    return main()


# --- errors --------------------------------------------------------------------------------------


def test_main_prints_one_line_when_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ask", "why?") == 2
    stderr = capfd.readouterr().err
    assert stderr.startswith("error: no cluster runs")
    assert len(stderr.strip().splitlines()) == 1


def test_main_names_the_key_when_the_config_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mygo.yaml"
    path.write_text("http: {prot: 80}\n")
    assert run(monkeypatch, "up", str(path)) == 2
    assert "http.prot: unknown key, did you mean port?" in capfd.readouterr().err


def test_main_hides_the_traceback_when_there_is_a_bug_unless_debug(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(app, "find_url", broken)
    assert run(monkeypatch, "status") == 70
    stderr = capfd.readouterr().err
    assert "boom" in stderr and "Traceback" not in stderr
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, "status", "--debug")


@pytest.mark.parametrize("arguments", [["ask"], ["ingest"], ["nonsense"], ["ask", "why?", "--top-k", "0"]])
def test_main_exits_2_when_used_wrongly(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert run(monkeypatch, *arguments) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (404, NotFound),
        (413, TooLarge),
        (429, Unavailable),
        (503, Unavailable),
    ],
)
def test_client_raises_what_the_status_means(server: Server, status: int, error: type[Exception]) -> None:
    server.answers["GET", "/v1/models"] = (status, {"error": {"message": "the reason"}})
    with Client(server.url) as client, pytest.raises(error, match="the reason"):
        client.model()


def test_client_sends_the_key_when_the_environment_has_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYGO_API_KEY", "secret")
    server.answers["GET", "/v1/models"] = (200, {"data": [{"id": "m"}]})
    with Client(server.url) as client:
        assert client.model() == "m"
    assert server.seen == [("GET", "/v1/models", "Bearer secret")]


# --- ask -----------------------------------------------------------------------------------------


def stores(server: Server, *names: str) -> None:
    data = [{"id": f"vs_{name}", "name": name, "created_at": 0} for name in names]
    server.answers["GET", "/v1/vector_stores"] = (200, {"data": data, "has_more": False})


def test_ask_prints_answer_citations_and_times(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stores(server, "docs")
    server.answers["GET", "/v1/models"] = (200, {"data": [{"id": "m"}]})
    citation = {"number": 1, "filename": "[a].md", "chunk": 3, "score": 0.51, "text": "Some\nwords"}
    account = {"citations": [citation], "usage": USAGE, "worker": "w0", "degraded": ["shard 1 is down"]}
    stream = events(delta("Because \x1b[31m"), delta("so.", "stop"), {"choices": [], "mygo": account})
    server.answers["POST", "/v1/chat/completions"] = (200, stream)
    assert run(monkeypatch, "ask", "why?", "--url", server.url) == 0
    stdout = capfd.readouterr().out
    assert stdout.startswith("Because [31mso.\n"), "control codes of a document reached the terminal"
    for part in ("[1] [a].md #3", "0.51", "Some words", "64 device, 16 host", "degraded: shard 1 is down"):
        assert " ".join(part.split()) in " ".join(stdout.split())


@pytest.mark.parametrize(
    "stream",
    [
        events(delta("half an"), done=False),
        events(delta("half an"), {"error": {"message": "the worker was lost"}}),
    ],
)
def test_ask_raises_when_the_stream_breaks_off(server: Server, stream: str) -> None:
    server.answers["POST", "/v1/chat/completions"] = (200, stream)
    pieces: list[str] = []
    with Client(server.url) as client, pytest.raises(Unavailable, match=r"broke off|the worker was lost"):
        ask(client, Question("why?", "vs_docs", "m"), pieces.append)
    assert pieces == ["half an"]


def test_choose_store_takes_the_only_one_or_default_or_asks(server: Server) -> None:
    with Client(server.url) as client:
        stores(server)
        with pytest.raises(NotFound, match="nothing has been ingested"):
            choose_store(client, None)
        stores(server, "docs")
        assert choose_store(client, None) == "vs_docs"
        stores(server, "docs", "default")
        assert choose_store(client, None) == "vs_default"
        stores(server, "docs", "notes")
        with pytest.raises(BadRequest, match="docs, notes"):
            choose_store(client, None)
        assert choose_store(client, "notes") == choose_store(client, "vs_notes") == "vs_notes"
        with pytest.raises(NotFound, match="there are: docs, notes"):
            choose_store(client, "other")


# --- status --------------------------------------------------------------------------------------


def test_status_exits_1_and_says_what_is_missing_when_not_ready(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET", "/readyz"] = (503, {"ready": False, "missing": ["worker 1"]})
    server.answers["GET", "/v1/mygo/status"] = (503, {"error": {"message": "not yet"}})
    assert run(monkeypatch, "status", "--url", server.url) == 1
    assert "missing: worker 1" in capfd.readouterr().out


def test_status_prints_json_when_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET", "/readyz"] = (200, {"ready": True, "missing": []})
    server.answers["GET", "/v1/mygo/status"] = (200, {"model": "m", "shards": [{"index": 0}]})
    assert run(monkeypatch, "status", "--url", server.url, "--json") == 0
    status = json.loads(capfd.readouterr().out)
    assert (status["ready"], status["model"], status["url"]) == (True, "m", server.url)


# --- demo ----------------------------------------------------------------------------------------


def pair(cold_s: float, warm_s: float, warm_cached_tokens: int = 96) -> Pair:
    account = {"usage": {"prompt_tokens": 100, "cached_tokens": {"device": warm_cached_tokens}}}
    return Pair("why?", Reply("", "stop", cold_s, cold_s), Reply("", "stop", warm_s, warm_s, account))


def test_judge_is_content_when_reuse_pays() -> None:
    assert judge([pair(4.0, 0.2), pair(4.0, 0.2), pair(4.0, 1.2)]) == []


def test_judge_complains_when_nothing_was_cached() -> None:
    assert any("no prompt token came from the cache" in line for line in judge([pair(4.0, 0.2, 0)]))


def test_judge_complains_when_the_median_is_slow() -> None:
    assert any("median" in line for line in judge([pair(4.0, 0.2), pair(4.0, 1.2), pair(4.0, 1.2)]))


def test_silent_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    silent("text")
    assert capfd.readouterr().out == ""
