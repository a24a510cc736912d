"""One question, streamed: the answer, its citations, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

from mygo.cli.client import Client, Json
from mygo.cli.terminal import out, seconds
from mygo.errors import BadRequest, NotFound, Unavailable

DEFAULT_STORE = "default"
_EXCERPT_CHARS = 70
_STEPS = ("retrieval", "queue", "prefill")


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    store_id: str
    model: str
    top_k: int | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    document_order: str | None = None
    system: str | None = None
    """Replaces the deployment's system prompt."""

    def body(self) -> Json:
        messages = [{"role": "user", "content": self.text}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        body: Json = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "vector_store_ids": [self.store_id],
            "citation_text": True,
        }
        optional = {
            "top_k": self.top_k,
            "max_tokens": self.max_tokens,
            "document_order": self.document_order,
        }
        return body | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    finish_reason: str
    ttft_s: float
    """From sending the question to the first text, as this client saw it."""
    total_s: float
    mygo: Json = field(default_factory=dict)
    """The response's own account: citations, usage, worker."""

    @property
    def usage(self) -> Json:
        return dict(self.mygo.get("usage") or {})

    @property
    def prompt_tokens(self) -> int:
        return int(self.usage.get("prompt_tokens", 0))

    @property
    def cached_tokens(self) -> int:
        return sum(int(tokens) for tokens in (self.usage.get("cached_tokens") or {}).values())


def choose_store(client: Client, store: str | None) -> str:
    """Id of the store to ask: the one named; else the only one; else the one named ``default``.

    Raises NotFound if there is no such store, or none at all; BadRequest if the choice is open.
    """
    stores = client.stores()
    if store is not None:
        matching = [entry for entry in stores if store in (entry["id"], entry.get("name"))]
        if not matching:
            names = ", ".join(str(entry.get("name") or entry["id"]) for entry in stores) or "none"
            raise NotFound(f"--store: there is no vector store {store!r} (there are: {names})")
        return str(matching[0]["id"])
    if not stores:
        raise NotFound("nothing has been ingested yet; run `mygo ingest PATH` first")
    if len(stores) == 1:
        return str(stores[0]["id"])
    for entry in stores:
        if entry.get("name") == DEFAULT_STORE:
            return str(entry["id"])
    names = ", ".join(str(entry.get("name") or entry["id"]) for entry in stores)
    raise BadRequest(f"there are several vector stores ({names}); say which with --store")


def ask(client: Client, question: Question, say: Callable[[str], None]) -> Reply:
    """Ask and pass each piece of the answer to ``say`` as it comes.

    Raises Unavailable if the answer breaks off.
    """
    began_s = time.monotonic()
    first_s: float | None = None
    pieces: list[str] = []
    finish_reason = ""
    account: Json = {}
    for chunk in client.stream_chat(question.body()):
        account = chunk.get("mygo") or account
        for choice in chunk.get("choices") or ():
            text = (choice.get("delta") or {}).get("content") or ""
            if text:
                first_s = first_s or time.monotonic()
                pieces.append(text)
                say(text)
            finish_reason = choice.get("finish_reason") or finish_reason
    ended_s = time.monotonic()
    if not finish_reason:
        raise Unavailable("the answer broke off before its end; ask again")
    return Reply("".join(pieces), finish_reason, (first_s or ended_s) - began_s, ended_s - began_s, account)


def print_citations(account: Json) -> None:
    # number and score are what an answer is checked by: only the excerpt gives way on a narrow terminal
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.add_column("number", no_wrap=True, min_width=4)
    table.add_column("file", no_wrap=True, min_width=24, max_width=36, overflow="ellipsis")
    table.add_column("score", no_wrap=True, min_width=4, justify="right")
    table.add_column("text", no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
    for citation in account.get("citations") or ():
        words = " ".join(str(citation.get("text") or "").split())
        table.add_row(
            escape(f"[{citation['number']}]"),
            escape(f"{citation['filename']} #{citation['chunk']}"),
            f"{citation['score']:.2f}",
            escape(words[:_EXCERPT_CHARS]),
        )
    out.print(table)
    dropped = account.get("dropped_documents") or ()
    if dropped:
        out.print(f"[yellow]{len(dropped)} more passages did not fit into the model's context[/yellow]")
    for problem in account.get("degraded") or ():
        out.print(f"[yellow]degraded: {escape(str(problem))}[/yellow]")


def print_times(reply: Reply) -> None:
    usage = reply.usage
    tiers = usage.get("cached_tokens") or {}
    cached = ", ".join(f"{tokens} {tier}" for tier, tokens in tiers.items() if tokens) or "none"
    steps = ", ".join(f"{step} {seconds(_number(usage, f'{step}_s'))}" for step in _STEPS)
    out.print(
        f"[dim]{steps}; first token after {seconds(reply.ttft_s)}, all after {seconds(reply.total_s)}\n"
        f"prompt {reply.prompt_tokens} tokens: {usage.get('computed_tokens', '-')} computed, "
        f"cached: {cached}; worker {escape(str(reply.mygo.get('worker', '-')))}[/dim]"
    )


def _number(usage: Json, key: str) -> float | None:
    value: Any = usage.get(key)
    return None if value is None else float(value)
