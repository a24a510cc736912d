"""``mygo cache``: what the workers' caches hold, as indented tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from mygo.cli.client import Json
from mygo.cli.terminal import out, seconds

_TIERS = ("device", "host", "disk")


def print_cache(report: Json) -> None:
    """One table per worker; in each branch the most valuable documents come first."""
    if not report["workers"]:
        out.print("no worker is up")
    for worker in report["workers"]:
        if worker["answered"]:
            _print_worker(worker)
        else:
            out.print(f"{escape(worker['id'])}: [yellow]did not answer[/yellow]")


def _print_worker(worker: Json) -> None:
    held, capacity = worker["held_tokens"], worker["capacity_tokens"]
    sizes = ", ".join(f"{tier} {held[tier]} of {capacity[tier]}" for tier in _TIERS if capacity[tier])
    out.print(f"[bold]{escape(worker['id'])}[/bold]  tokens: {sizes}")
    table = Table(box=None, expand=True)
    table.add_column("document in its path", no_wrap=True, overflow="ellipsis", ratio=1)
    for title in ("tokens", *_TIERS, "times", "saves", "now"):
        table.add_column(title, no_wrap=True, justify="right")
    for node, depth in _in_order(worker["nodes"]):
        table.add_row(
            "  " * depth + _name(node["document"]),
            str(node["tokens"]),
            *(str(node["held_tokens"].get(tier, "-")) for tier in _TIERS),
            f"{node['frequency']:.3g}",
            seconds(node["value_s"]),
            str(node["live"] or "-"),
        )
    out.print(table)
    rest = worker["total_nodes"] - len(worker["nodes"])
    if rest > 0:
        out.print(f"[dim]{rest} more are not shown (--top shows more)[/dim]")
    if worker["hidden_nodes"]:
        out.print(f"[dim]{worker['hidden_nodes']} of the most valuable ones are other tenants'[/dim]")


def _name(document: Json | None) -> str:
    return "-" if document is None else escape(f"{document['filename']} #{document['chunk']}")


def _in_order(nodes: list[Json]) -> Iterator[tuple[Json, int]]:
    """Nodes and their depths, each before those behind it; the most valuable branch first."""
    children: dict[int | None, list[Json]] = {}
    for node in nodes:
        children.setdefault(node["parent"], []).append(node)
    best_s = {node["number"]: float(node["value_s"]) for node in nodes}
    # parents have lower numbers than what lies behind them
    for node in sorted(nodes, key=lambda node: -int(node["number"])):
        if node["parent"] in best_s:
            best_s[node["parent"]] = max(best_s[node["parent"]], best_s[node["number"]])

    def ascending(siblings: list[Json]) -> list[Json]:
        return sorted(siblings, key=lambda node: best_s[node["number"]])

    shown = {node["number"] for node in nodes}
    roots = [node for node in nodes if node["parent"] not in shown]
    stack = [(node, 0) for node in ascending(roots)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        stack += [(child, depth + 1) for child in ascending(children.get(node["number"], []))]
