"""Bringing files into a vector store: plan from what is there already, upload the rest, wait for it.

Every attached file carries its path and the SHA-256 of its bytes as attributes. They are all the memory
there is: run again after any interruption, only what is missing or changed is sent.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mygo.cli.client import Client, Json
from mygo.corpus.parse import SUPPORTED_EXTENSIONS
from mygo.errors import BadRequest, Unauthorized, Unavailable

_POLL_S = 0.5
_MAX_NAME_CHARS = 512
"""What an attribute may hold."""
_TRIES = 5


@dataclass(frozen=True, slots=True)
class LocalFile:
    name: str
    """How citations show it: relative to what was named on the command line, with forward slashes."""
    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Plan:
    upload: tuple[LocalFile, ...] = ()
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a file to upload -> ids of its older versions (or failed tries) in the store."""
    await_ids: Mapping[str, LocalFile] = field(default_factory=dict)
    """File id -> local file, uploaded by an earlier run and still in progress."""
    unchanged: int = 0


@dataclass(slots=True)
class Report:
    store_id: str
    ingested: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """File name -> why it is not in the store."""
    skipped: dict[str, str] = field(default_factory=dict)
    """File name -> why it was not sent."""
    took_s: float = 0.0

    @property
    def present(self) -> int:
        """Files of this run's request that are in the store now."""
        return len(self.ingested) + self.unchanged

    def as_json(self) -> Json:
        return {
            "vector_store_id": self.store_id,
            "ingested": len(self.ingested),
            "unchanged": self.unchanged,
            "failed": self.failed,
            "skipped": self.skipped,
            "took_s": round(self.took_s, 3),
        }


Say = Callable[[Report, int, int], None]
"""Called as files finish: (report so far, bytes finished, bytes in all)."""


def find_files(paths: Iterable[Path]) -> tuple[list[LocalFile], dict[str, str]]:
    """Read and hash all files below ``paths``; also name -> reason for what is skipped.

    Folders are walked in order of names; hidden entries are passed over, and so are types that MyGO cannot
    read. A file that is named itself is always taken. Raises BadRequest if a path does not exist.
    """
    found: dict[str, LocalFile] = {}
    skipped: dict[str, str] = {}
    for root in paths:
        if not root.exists():
            raise BadRequest(f"{root}: no such file or folder")
        candidates = [root] if root.is_file() else sorted(_walk(root))
        for path in candidates:
            name = _name(path, root)
            if path != root and path.suffix.lower() not in SUPPORTED_EXTENSIONS:
                skipped[name] = f"type {path.suffix or '(none)'} is not one that MyGO reads"
                continue
            try:
                content = path.read_bytes()
            except OSError as error:
                skipped[name] = f"cannot be read ({error.strerror})"
                continue
            if name in found and found[name].path.resolve() != path.resolve():
                skipped[str(path)] = f"{found[name].path} is called {name} too; ingest their common folder"
                continue
            digest = hashlib.sha256(content).hexdigest()
            found[name] = LocalFile(name, path, len(content), digest)
    return list(found.values()), skipped


def plan(files: Sequence[LocalFile], entries: Iterable[Json]) -> Plan:
    """Compare local files with the store's entries; pure.

    Equal name and hash: unchanged if completed, awaited if in progress, sent again if it failed. Equal name
    and another hash: sent, and the old version removed once the new one is in. Entries that no local file
    names stay.
    """
    by_name: dict[str, list[Json]] = {}
    for entry in entries:
        by_name.setdefault(str((entry.get("attributes") or {}).get("path", "")), []).append(entry)
    upload: list[LocalFile] = []
    replaced: dict[str, tuple[str, ...]] = {}
    await_ids: dict[str, LocalFile] = {}
    unchanged = 0
    for file in files:
        known = by_name.get(file.name, [])
        same = [entry for entry in known if entry["attributes"].get("sha256") == file.sha256]
        if any(entry["status"] == "completed" for entry in same):
            unchanged += 1
        elif waiting := [entry for entry in same if entry["status"] == "in_progress"]:
            await_ids[waiting[0]["id"]] = file
        else:
            upload.append(file)
            replaced[file.name] = tuple(entry["id"] for entry in known)
    return Plan(tuple(upload), replaced, await_ids, unchanged)


def ingest(client: Client, store_id: str, files: Sequence[LocalFile], say: Say) -> Report:
    """Bring all files into the store and wait until they can be found. Failures are in the report."""
    began_s = time.monotonic()
    todo = plan(files, client.store_files(store_id))
    report = Report(store_id, unchanged=todo.unchanged)
    pending = dict(todo.await_ids)
    total_bytes = sum(file.size_bytes for file in (*todo.upload, *pending.values()))
    done_bytes = 0

    for file in todo.upload:
        try:
            pending[_send(client, store_id, file)] = file
        except BadRequest as error:
            if isinstance(error, Unauthorized):
                raise
            report.failed[file.name] = str(error)
            done_bytes += file.size_bytes
            say(report, done_bytes, total_bytes)

    while pending:
        listed_s = time.monotonic()
        entries = {entry["id"]: entry for entry in client.store_files(store_id)}
        for file_id, file in list(pending.items()):
            entry = entries.get(file_id)
            if entry is not None and entry["status"] == "in_progress":
                continue
            del pending[file_id]
            done_bytes += file.size_bytes
            if entry is not None and entry["status"] == "completed":
                report.ingested.append(file.name)
                for old_id in todo.replaced.get(file.name, ()):
                    client.remove(store_id, old_id)
            else:
                report.failed[file.name] = _reason(entry)
        say(report, done_bytes, total_bytes)
        if pending:  # a long listing is asked for less often
            time.sleep(max(_POLL_S, 5 * (time.monotonic() - listed_s)))
    report.took_s = time.monotonic() - began_s
    return report


def _send(client: Client, store_id: str, file: LocalFile) -> str:
    """Upload and attach, patiently: a busy or full server may recover. Returns the file's id."""
    for attempt in range(_TRIES):
        try:
            file_id = str(client.upload(file.name, file.path.read_bytes())["id"])
            client.attach(store_id, file_id, {"path": file.name, "sha256": file.sha256})
            return file_id
        except Unavailable as error:
            if attempt == _TRIES - 1:
                raise Unavailable(
                    f"{file.name}: {error} (what was sent before it is safe; run again)"
                ) from error
            time.sleep(0.5 * 2**attempt)
    raise AssertionError("unreachable")


def _reason(entry: Json | None) -> str:
    if entry is None:
        return "was removed from the store by somebody else"
    error = entry.get("last_error") or {}
    return str(error.get("message") or f"ended as {entry['status']}")


def _walk(root: Path) -> Iterable[Path]:
    for entry in root.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _name(path: Path, root: Path) -> str:
    name = path.name if path == root else (Path(root.absolute().name) / path.relative_to(root)).as_posix()
    return name[-_MAX_NAME_CHARS:]
