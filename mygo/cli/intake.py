"""``mygo ingest`` on the terminal: the progress bar around ``ingest.py``, and its report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mygo.cli import ingest
from mygo.cli.client import Client
from mygo.cli.python_docs import write_python_docs
from mygo.cli.terminal import err, out
from mygo.errors import MygoError, NotFound

_MAX_NAMED = 20
"""Files that the report names one by one; a folder of pictures should not fill the screen."""


def ingest_paths(client: Client, paths: Sequence[Path], store: str) -> ingest.Report:
    """Ingest files and folders into a store, by name (made if absent) or id, showing progress."""
    files, skipped = ingest.find_files(paths)
    entry = client.find_store(store)
    if entry is None:
        if store.startswith("vs_"):
            raise NotFound(f"--store: there is no vector store {store}; leave the option out, or give a name")
        entry = client.create_store(store)
    columns = (
        TextColumn("ingesting"),
        BarColumn(),
        TextColumn(
            "{task.fields[files]} of {task.fields[all_files]} files, {task.fields[passages]} passages,"
        ),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    passages_before = _passages(client)
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None, files=0, all_files=len(files), passages=0)

        def say(report: ingest.Report, done_bytes: int, total_bytes: int) -> None:
            progress.update(
                task,
                total=total_bytes,
                completed=done_bytes,
                files=len(report.failed) + report.present,
                passages=_passages(client) - passages_before,
            )

        report = ingest.ingest(client, str(entry["id"]), files, say)
    report.skipped = skipped
    return report


def ingest_python_docs(client: Client, store: str) -> ingest.Report:
    """Write Python's documentation to a temporary folder and ingest it."""
    with tempfile.TemporaryDirectory(prefix="mygo-") as folder:
        write_python_docs(Path(folder))
        return ingest_paths(client, [Path(folder) / "python"], store)


def print_report(report: ingest.Report) -> None:
    left_out = sorted({**report.skipped, **report.failed}.items())
    for name, reason in left_out[:_MAX_NAMED]:
        err.print(f"[yellow]skipped[/yellow] {escape(name)}: {escape(reason)}")
    if len(left_out) > _MAX_NAMED:
        err.print(f"[yellow]skipped[/yellow] {len(left_out) - _MAX_NAMED} more; --json names them all")
    out.print(
        f"{len(report.ingested)} files ingested, {report.unchanged} already there, {len(left_out)} skipped, "
        f"in {report.took_s:.1f} s ({report.store_id})"
    )


def _passages(client: Client) -> int:
    """Passages that can be found now, over all shards; 0 if the cluster cannot say."""
    try:
        return sum(int(shard.get("vectors") or 0) for shard in client.status().get("shards") or ())
    except MygoError:
        return 0
