"""``mygo cache quality``: what the workers' quality guards have found of blended answers, as tables."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from mygo.cli.client import Json
from mygo.cli.terminal import out

_COLORS = {"proven": "green", "unproven": "yellow", "off": "red"}


def print_quality(report: Json) -> None:
    """One table per worker, one row per bucket of requests that need about the same repair."""
    if not report["workers"]:
        out.print("no worker is up")
    for worker in report["workers"]:
        name = escape(worker["id"])
        if not worker["answered"]:
            out.print(f"{name}: [yellow]did not answer[/yellow]")
        elif not worker["guarded"]:
            out.print(f"{name}: blends nothing (reuse.mode is exact)")
        else:
            _print_worker(name, worker)


def _print_worker(name: str, worker: Json) -> None:
    answered = ", ".join(f"{action} {requests}" for action, requests in worker["decisions"].items())
    bound = f"mean KL at most {worker['kl_bound']:g}, {worker['observations']} comparisons"
    out.print(f"[bold]{name}[/bold]  {bound}")
    out.print(f"requests that could be blended, by how they were answered: {answered}")
    if worker["buckets"]:
        table = Table(box=None)
        for title in ("repair needed", "state", "alpha", "mean KL", "agreement", "overlap", "comparisons"):
            table.add_column(title, no_wrap=True, justify="left" if title == "state" else "right")
        for bucket in worker["buckets"]:
            start, end = bucket["need"]
            state = bucket["state"]
            table.add_row(
                f"{start:.0%} to {end:.0%}",
                f"[{_COLORS[state]}]{state}[/{_COLORS[state]}]",
                *(_figure(bucket[each]) for each in ("alpha", "mean_kl", "top1_agreement", "overlap")),
                str(bucket["observations"]),
            )
        out.print(table)
    if worker["documents_off"]:
        out.print(f"[red]{worker['documents_off']} documents are not reused any more[/red]")
        for document in worker["documents"]:
            out.print(f"  {escape(document['filename'])} #{document['chunk']}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
