"""What is kept of a run: one JSON line per request, whole rounds at a time, and who may add to it.

``<out>/run.json`` says what the run is; ``<out>/raw/<system>-<load>.jsonl`` holds its requests and
``<out>/raw/<system>-<load>.rounds.jsonl`` its rounds. A round is there with all its requests or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import folders
from mygo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Record:
    """One request as one system served it. Times are seconds from the start of its round."""

    system: str
    """The label in the run: ``vllm-prefix#2`` is another server than ``vllm-prefix``."""
    load: str
    round: int
    request: int
    """Its number in the trace."""
    arrived_s: float
    """When it was due; in a closed loop, when its turn came."""
    sent_s: float
    """After retrieval."""
    first_s: float | None
    last_s: float | None
    ttft_s: float | None
    """From arrival to the first token: retrieval and all waiting included."""
    e2e_s: float | None
    """From arrival to the last token."""
    itl_s: list[float]
    """Between one chunk of tokens and the next."""
    prompt_tokens: int
    cached_tokens: int
    embed_s: float
    search_s: float
    queue_s: float
    prefill_s: float
    worker: str
    output_ids: list[int]
    error: str | None = None

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round of one system."""

    system: str
    load: str
    round: int
    rate: float | None
    """Requests/s offered; None for a closed loop."""
    place: int
    """0 if it was the first of the round's systems to serve it."""
    wall_s: float
    """From its first arrival to its last token."""
    cached_tokens: dict[str, float] = field(default_factory=dict)
    """By tier, if the system has more than one."""
    load_s: float = 0.0
    """Copies from slower tiers to the device."""
    cpu_s: float = 0.0
    """CPU seconds of the system's processes in this round."""
    others_cpu_s: float = 0.0
    """CPU seconds of the other systems' processes meanwhile: what being idle costs them."""
    refilled: bool = False
    """True if the run was interrupted before this round and the caches were filled by a replay."""


class RunFolder:
    """The folder of one run. Use as ``with RunFolder.opened(path, manifest) as run``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = path / "raw"

    @classmethod
    @contextmanager
    def opened(cls, path: Path, manifest: Mapping[str, Any]) -> Iterator[RunFolder]:
        """Take the folder for this process; make it if there is none.

        ``manifest`` is what makes runs comparable; a folder with another one is refused, as is one that a
        living process has taken. Raises ConfigError.
        """
        run = cls(path)
        if not (folders.made(path) / "run.json").exists():
            folders.made_empty(path)
        folders.made(run._raw)
        with (path / "run.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"--out {path}: another benchmark is writing there; wait for it, or give another folder"
                ) from None
            known = run.manifest()
            wanted = json.loads(json.dumps(manifest))
            if known is None:
                _write(path / "run.json", json.dumps(wanted, indent=2) + "\n")
            elif different := [key for key in {*known, *wanted} if known.get(key) != wanted.get(key)]:
                said = "; ".join(
                    f"{k}: {known.get(k)!r} there, {wanted.get(k)!r} asked" for k in sorted(different)
                )
                raise ConfigError(
                    f"--out {path}: holds another run ({said}); give another folder, or the same options "
                    "to go on"
                )
            yield run

    def manifest(self) -> dict[str, Any] | None:
        """What ``run.json`` says; None if there is none. Raises ConfigError if it cannot be read."""
        path = self.path / "run.json"
        try:
            manifest: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out {path}: cannot be read ({error}); give another folder") from error
        return manifest

    def attempt(self, label: str) -> Path:
        """A new empty folder for the logs and data of a server that is about to start."""
        servers = self.path / "servers"
        number = 1 + sum(1 for _ in servers.glob(f"{label}.*"))
        folder = servers / f"{label}.{number}"
        folder.mkdir(parents=True)
        return folder

    def add(self, done: RoundRecord, requests: Sequence[Record]) -> None:
        """Keep a round. The round's own line comes last: without it the requests do not count."""
        _append(self._requests_of(done.system, done.load), [asdict(each) for each in requests])
        _append(self._rounds_of(done.system, done.load), [asdict(done)])

    def rounds(self, system: str, load: str) -> dict[int, RoundRecord]:
        """Finished rounds by number."""
        lines = _lines(self._rounds_of(system, load))
        return {line["round"]: RoundRecord(**line) for line in lines}

    def rounds_in_order(self, system: str, load: str) -> list[RoundRecord]:
        done = self.rounds(system, load)
        return [done[number] for number in sorted(done)]

    def requests(self, system: str, load: str) -> list[Record]:
        """The requests of finished rounds, by request number; a repeated round counts once."""
        done = self.rounds(system, load)
        by_number = {
            line["request"]: Record(**line)
            for line in _lines(self._requests_of(system, load))
            if line["round"] in done
        }
        return [by_number[number] for number in sorted(by_number)]

    def _requests_of(self, system: str, load: str) -> Path:
        return self._raw / f"{system}-{load}.jsonl"

    def _rounds_of(self, system: str, load: str) -> Path:
        return self._raw / f"{system}-{load}.rounds.jsonl"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; one that was being written when the run was cut off is left out."""
    found: list[dict[str, Any]] = []
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a+b") as file:
        if file.tell() and not _ends_a_line(path):
            file.write(b"\n")  # a line that was cut off must not swallow the next one
        file.writelines(json.dumps(each).encode() + b"\n" for each in lines)
        file.flush()
        os.fsync(file.fileno())


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
