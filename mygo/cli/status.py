"""``mygo status``: what the cluster says of itself, as tables."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from mygo.cli.client import Client, Json
from mygo.cli.terminal import out
from mygo.errors import MygoError


def collect(client: Client) -> Json:
    """``{"url", "ready", "missing", ...}`` and, once the cluster can give it, its own status."""
    ready, missing = client.readyz()
    face: Json = {"url": client.url, "ready": ready, "missing": missing}
    try:
        return client.status() | face
    except MygoError:
        if ready:
            raise
        return face


def print_status(status: Json) -> None:
    color, word = ("green", "ready") if status["ready"] else ("yellow", "not ready")
    out.print(f"[{color}]{word}[/{color}]  {escape(status['url'])}  {escape(str(status.get('model', '')))}")
    for phrase in status["missing"]:
        out.print(f"  missing: {escape(phrase)}")
    if workers := status.get("workers"):
        out.print(_workers(workers))
    if shards := status.get("shards"):
        out.print(_shards(shards, int((status.get("journal") or {}).get("position", 0))))
    if journal := status.get("journal"):
        out.print(f"journal: position {journal.get('position')}")
    if routing := status.get("routing"):
        requests = routing.get("requests") or {}
        shares = ", ".join(f"{count} to {worker}" for worker, count in requests.items()) or "no requests yet"
        out.print(escape(f"routing by {routing.get('policy')}: {shares}"))


def _workers(workers: list[Json]) -> Table:
    table = Table(
        "worker", "node", "tokens on device", "of", "in host memory", "on disk", "running", "waiting",
        "tokens queued", box=None,
    )  # fmt: skip
    for worker in workers:
        held = worker.get("held_tokens") or {}
        cells = [
            *(worker.get(cell, "-") for cell in ("id", "node")),
            *(held.get("device", "-"), worker.get("device_tokens", "-")),
            *(held.get("host", "-"), held.get("disk", "-")),
            *(worker.get(cell, "-") for cell in ("running", "waiting", "queued_tokens")),
        ]
        table.add_row(*(escape(str(cell)) for cell in cells))
    return table


def _shards(shards: list[Json], journal_position: int) -> Table:
    table = Table("shard", "state", "vectors", "journal position", "behind", box=None)
    for shard in shards:
        alive = bool(shard.get("alive"))
        position = int(shard.get("position") or 0)
        table.add_row(
            str(shard.get("index")),
            "up" if alive else "[red]down[/red]",
            str(shard.get("vectors", "-")),
            str(position),
            str(max(0, journal_position - position)),
        )
    return table
