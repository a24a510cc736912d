"""Writes the report of a run folder: Markdown, JSON and plots."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.records import RunFolder
from benchmarks.report.markdown import render
from benchmarks.report.plots import draw
from benchmarks.report.summary import Summary, summarise
from benchmarks.report.validation import last_check
from mygo.errors import ConfigError


def write_report(out: Path) -> str:
    """``report.md`` (also returned), ``report.json`` and the plots, from what is in the folder.

    Raises ConfigError if there is no run in it, or none of its requests succeeded.
    """
    folder = RunFolder(out)
    manifest = folder.manifest()
    if manifest is None:
        raise ConfigError(f"--out {out}: holds no run; leave out --report to make one")
    summary = summarise(manifest, folder.requests, folder.rounds_in_order)
    if not summary.loads:
        raise ConfigError(f"--out {out}: no request has succeeded yet; the errors are in {out}/raw")
    text = render(summary, draw(summary, out), last_check())
    (out / "report.md").write_text(text)
    (out / "report.json").write_text(json.dumps(_json(summary), indent=2) + "\n")
    return text


def _json(summary: Summary) -> dict[str, Any]:
    """Everything but the single requests, which are in ``raw``."""
    whole = asdict(summary)
    for row in whole["rows"]:
        for cell in row["cells"].values():
            del cell["ttft_s"]
    return whole
