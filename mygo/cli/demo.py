"""``mygo demo``: a small cluster, Python's own documentation, real questions asked cold and warm.

It fails loudly: exit code 1 if the second asking reused nothing, or was not fast enough to matter.
"""

from __future__ import annotations

import secrets
import socket
import statistics
from dataclasses import dataclass
from pathlib import Path

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from mygo import config as configs
from mygo.cli import cluster, intake, start, state
from mygo.cli.ask import Question, Reply, ask, print_citations
from mygo.cli.client import Client
from mygo.cli.terminal import out, print_error, print_piece, seconds, silent
from mygo.config import Config
from mygo.errors import ConfigError

NAME = "demo"
STORE = "python-docs"
DATA_DIR = Path("~/.local/share/mygo-demo")
MAX_WARM_SHARE = 0.2
"""The warm time to first token may be at most this share of the cold one (median over the questions)."""
_QUESTIONS = (
    "How does the with statement use a context manager, step by step?",
    "What is the difference between a list comprehension and a generator expression?",
    "How do I keep a list sorted while inserting items, and which module helps?",
)
_MAX_TOKENS = 96
_TOP_K = 10
"""Passages per question: prompts of about 2,000 tokens."""
_FIRST_PORT = 8000


@dataclass(frozen=True, slots=True)
class Pair:
    """One question asked twice."""

    question: str
    cold: Reply
    warm: Reply

    @property
    def warm_share(self) -> float:
        return self.warm.ttft_s / self.cold.ttft_s


def run(data_dir: Path, *, stop: bool) -> None:
    """The whole demo. Raises MygoError if a step fails, typer.Exit(1) if the numbers disappoint."""
    server = state.recall(NAME)
    if server is None or not server.alive:
        config, path = _configure(data_dir)
        out.print("[bold]1. Start a cluster[/bold]: 2 workers running vLLM, 2 retrieval shards")
        start.bring_up(config, path)
        server = state.recall(NAME)
        if server is None:
            raise ConfigError(f"the demo's state file vanished from {state.state_dir()}; run the demo again")
    else:
        out.print(f"[bold]1. The demo's cluster runs already[/bold]: {server.url}")
    with Client(server.url) as client:
        out.print("\n[bold]2. Ingest Python's own documentation[/bold]")
        report = intake.ingest_python_docs(client, STORE)
        intake.print_report(report)
        if not report.present:
            raise typer.Exit(1)
        out.print("\n[bold]3. Ask, then ask again[/bold]")
        pairs = _ask_all(client, report.store_id)
        failures = judge(pairs)
        _print_table(pairs)
        for failure in failures:
            print_error(failure)
        _print_next(client, report.store_id, stopped=stop)
    if stop:
        cluster.stop(server)
        out.print("the demo's cluster is stopped")
    if failures:
        raise typer.Exit(1)


def judge(pairs: list[Pair]) -> list[str]:
    """What is wrong with the measurements, one sentence each; empty if reuse works and pays."""
    failures = [
        f"no prompt token came from the cache when this was asked again: {pair.question}"
        for pair in pairs
        if pair.warm.cached_tokens == 0
    ]
    share = statistics.median(pair.warm_share for pair in pairs)
    if share > MAX_WARM_SHARE:
        failures.append(
            f"the warm time to first token is {share:.2f} of the cold one (median), more than "
            f"{MAX_WARM_SHARE}; if other programs keep this machine busy, run the demo again"
        )
    return failures


def _configure(data_dir: Path) -> tuple[Config, Path]:
    """The defaults, in a data directory of their own, on a port that is free."""
    path = data_dir.expanduser().absolute() / "demo.yaml"
    settings = {
        "cluster": {"name": NAME, "data_dir": str(path.parent / "data")},
        "http": {"port": _free_port()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--data-dir: {path.parent} cannot be written ({error.strerror})") from error
    return configs.load(path), path


def _free_port() -> int:
    for port in range(_FIRST_PORT, _FIRST_PORT + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ConfigError(f"no port from {_FIRST_PORT} to {_FIRST_PORT + 99} is free")


def _ask_all(client: Client, store_id: str) -> list[Pair]:
    # Without this line in the prompt a second demo on the same cluster would find everything cached.
    system = (
        "You answer questions using only the documents below. "
        "If they do not contain the answer, say that you do not know. "
        f"(Demo run {secrets.token_hex(4)}.)"
    )
    model = client.model()
    pairs = []
    for text in _QUESTIONS:
        question = Question(text, store_id, model, top_k=_TOP_K, max_tokens=_MAX_TOKENS, system=system)
        out.print(f"\n[bold cyan]{escape(text)}[/bold cyan]")
        cold = ask(client, question, print_piece)
        out.print("\n")
        print_citations(cold.mygo)
        pairs.append(Pair(text, cold, ask(client, question, silent)))
    return pairs


def _print_table(pairs: list[Pair]) -> None:
    table = Table(title="\nTime to first token, cold and warm", title_justify="left", box=None)
    for column in ("prompt tokens", "cold", "cached", "warm", "cached", "cold / warm"):
        table.add_column(column, justify="right")
    for pair in pairs:
        table.add_row(
            str(pair.cold.prompt_tokens),
            seconds(pair.cold.ttft_s),
            str(pair.cold.cached_tokens),
            seconds(pair.warm.ttft_s),
            str(pair.warm.cached_tokens),
            f"{pair.cold.ttft_s / pair.warm.ttft_s:.1f} x",
        )
    out.print(table)


def _print_next(client: Client, store_id: str, *, stopped: bool) -> None:
    if stopped:
        return
    out.print(
        f"""
[bold]The cluster stays up.[/bold] Go on:

  .venv/bin/mygo ask 'How do decorators work?'
  .venv/bin/mygo ingest YOUR_FILES --store mine
  .venv/bin/mygo status

  curl {client.url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{client.model()}", "vector_store_ids": ["{store_id}"],
         "messages": [{{"role": "user", "content": "How do decorators work?"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{client.url}/v1", api_key="none")
  client.responses.create(model="{client.model()}", input="How do decorators work?",
      tools=[{{"type": "file_search", "vector_store_ids": ["{store_id}"]}}])

Stop it with: .venv/bin/mygo down""",
        markup=True,
    )
