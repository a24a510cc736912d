"""``mygo ingest`` against a server that keeps files and stores in memory."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_double import Server

from mygo.cli import ingest, main


class Shelf(Server):
    """Files and stores under OpenAI's names. A file completes at the second look; ``bad`` ones fail."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}
        self.stores: dict[str, dict[str, Any]] = {}
        self.busy = 0
        """How many uploads are still to be turned away."""

    def handle(self, method: str, path: str, sent: bytes) -> tuple[int, Any]:
        if (method, path) == ("POST", "/v1/files"):
            return self._upload(sent)
        if path == "/v1/vector_stores":
            if method == "POST":
                store = {"id": f"vs_{len(self.stores)}", "name": json.loads(sent)["name"], "entries": {}}
                self.stores[store["id"]] = store
                return 200, store
            return 200, {"data": list(self.stores.values()), "has_more": False}
        if deleted := re.fullmatch(r"/v1/files/(.+)", path):
            self.files.pop(deleted[1])
            return 200, {}
        if found := re.fullmatch(r"/v1/vector_stores/(\w+)/files(?:/(.+))?", path):
            return self._entries(method, self.stores[found[1]]["entries"], found[2], sent)
        return super().handle(method, path, sent)

    def _upload(self, sent: bytes) -> tuple[int, Any]:
        if self.busy:
            self.busy -= 1
            return 503, {"error": {"message": "busy"}}
        name = re.search(rb'filename="([^"]+)"', sent)
        assert name is not None
        file_id = f"file-{len(self.seen)}"
        self.files[file_id] = name[1].decode()
        return 200, {"id": file_id}

    def _entries(
        self, method: str, entries: dict[str, Any], file_id: str | None, sent: bytes
    ) -> tuple[int, Any]:
        if method == "DELETE":
            entries.pop(file_id)
            return 200, {}
        if method == "POST":
            body = json.loads(sent)
            entries[body["file_id"]] = {"id": body["file_id"], "status": "in_progress", **body, "looks": 0}
            return 200, entries[body["file_id"]]
        for entry in entries.values():
            entry["looks"] += 1
            if entry["looks"] == 2 and "bad" in self.files[entry["id"]]:
                entry |= {"status": "failed", "last_error": {"message": "cannot be parsed"}}
            elif entry["looks"] == 2:
                entry["status"] = "completed"
        return 200, {"data": list(entries.values()), "has_more": False}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setattr(ingest, "_POLL_S", 0.01)
    running = Shelf()
    yield running
    running.close()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a.md", "b.md", "bad.md"):
        (folder / name).write_text(name)
    (folder / "x.png").write_bytes(b"\x89PNG")
    return folder


def run(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], path: Path
) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["mygo", "ingest", str(path), "--url", shelf.url, "--json"])
    return main(), json.loads(capfd.readouterr().out)


def test_ingest_brings_in_the_rest_when_a_file_cannot_be_parsed(
    shelf: Shelf, docs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, report = run(shelf, monkeypatch, capfd, docs)
    assert code == 0
    assert (report["ingested"], report["unchanged"]) == (2, 0)
    assert report["failed"] == {"docs/bad.md": "cannot be parsed"}
    assert list(report["skipped"]) == ["docs/x.png"]


def test_ingest_sends_nothing_when_run_again_but_what_changed_or_failed(
    shelf: Shelf, docs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(shelf, monkeypatch, capfd, docs)
    (docs / "a.md").write_text("changed")
    (docs / "bad.md").unlink()
    code, report = run(shelf, monkeypatch, capfd, docs)
    assert (code, report["ingested"], report["unchanged"], report["failed"]) == (0, 1, 1, {})
    kept = sorted(
        (entry["attributes"]["path"], shelf.files[entry["id"]])
        for entry in shelf.stores["vs_0"]["entries"].values()
    )
    assert [path for path, _ in kept] == ["docs/a.md", "docs/b.md", "docs/bad.md"], "the old a.md stayed"
    assert len(shelf.files) == 3, "a replaced file was not deleted"


def test_ingest_waits_when_the_server_is_busy(
    shelf: Shelf, docs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shelf.busy = 1
    code, report = run(shelf, monkeypatch, capfd, docs / "a.md")
    assert (code, report["ingested"]) == (0, 1)


def test_ingest_exits_1_when_nothing_went_in(
    shelf: Shelf, docs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, report = run(shelf, monkeypatch, capfd, docs / "bad.md")
    assert code == 1
    assert report["failed"] == {"bad.md": "cannot be parsed"}
