"""The folder of a study: one line per finished run, so that a stopped study goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import folders
from mygo.errors import ConfigError

Row = dict[str, Any]


class Store:
    """``settings.json``, ``runs.jsonl``, ``grounds.json`` and ``raw/`` in one folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Raises ConfigError if the folder holds a study with other settings, or something else."""
        self.folder = folder
        kept = folder / "settings.json"
        wanted = json.loads(json.dumps(settings))
        if kept.exists():
            found = json.loads(kept.read_text())
            differing = [name for name in wanted if found.get(name) != wanted[name]]
            if differing:
                raise ConfigError(
                    f"--out {folder}: holds a study with another {differing[0]} "
                    f"({found.get(differing[0])}, not {wanted[differing[0]]}); give another folder"
                )
        else:
            if any(folders.made(folder).iterdir()):
                raise ConfigError(f"--out {folder}: is there already and holds no study; give another folder")
            kept.write_text(json.dumps(wanted, indent=2) + "\n")
        self._runs = folder / "runs.jsonl"
        self._grounds = folder / "grounds.json"
        self.rows: dict[str, Row] = dict(self._read())

    def add(self, key: str, row: Row) -> None:
        """Keep a finished run."""
        with self._runs.open("a") as file:
            file.write(json.dumps({"key": key, **row}) + "\n")
        self.rows[key] = row

    def grounds(self) -> dict[str, Row]:
        return json.loads(self._grounds.read_text()) if self._grounds.exists() else {}

    def add_ground(self, name: str, ground: Row) -> None:
        self._grounds.write_text(json.dumps(self.grounds() | {name: ground}, indent=2) + "\n")

    def raw(self, key: str) -> Path:
        """Where a run's requests are kept."""
        return self.folder / "raw" / (re.sub(r"[^A-Za-z0-9=.]+", "_", key) + ".csv.gz")

    def _read(self) -> list[tuple[str, Row]]:
        if not self._runs.exists():
            return []
        text = self._runs.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self._runs.write_text(whole)  # the last line was cut when the study was stopped
        rows = [json.loads(line) for line in whole.splitlines()]
        return [(row.pop("key"), row) for row in rows]
