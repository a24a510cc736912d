"""What a trace is: texts with lengths in tokens, and requests that name them. No text, no token ids.

A text is named by its id; equal ids are equal texts, whatever request they come in, so reuse can be
counted without any text. Whoever needs real prompts synthesises them to these lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from mygo.types import DEFAULT_TENANT, PUBLIC, DomainTag, TenantId

TextId = NewType("TextId", str)
"""A document (a passage), a system prompt, or a piece of history. A document that is updated gets a
new id for its new content."""


@dataclass(frozen=True, slots=True)
class Text:
    tokens: int
    domain: DomainTag = PUBLIC
    """Who may share its KV."""
    copy_of: TextId | None = None
    """The text whose words it repeats in another domain; None for words of its own. What a tenant that
    probes a shared cache brings: the same tokens, and no right to hit the original's KV."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    number: int
    """0-based position in the trace."""
    arrival_s: float
    """Seconds since the start of the trace; never decreases along it."""
    system: TextId
    documents: tuple[TextId, ...]
    """As retrieved, best first; may be empty."""
    question_tokens: int
    """Text that no other request has: the question, and whatever is volatile around it."""
    output_tokens: int
    history: tuple[TextId, ...] = ()
    """Earlier turns, oldest first."""
    tenant: TenantId = DEFAULT_TENANT
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """From ``at_s`` on, ``new`` stands where ``old`` stood; the KV of ``old`` is of no use any more."""

    at_s: float
    old: TextId
    new: TextId


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    texts: Mapping[TextId, Text]
    """Every text that a request or an update names."""
    requests: tuple[TraceRequest, ...]
    """By arrival."""
    updates: tuple[Update, ...] = ()
    """By time."""
    seed: int | None = None
    """None for a recorded trace."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """How it was made or where it came from, for reports."""
    corpus_documents: int | None = None
    """Documents that could have been retrieved, most of which no request may have asked for; None if
    that is not known."""

    @property
    def duration_s(self) -> float:
        """From 0 to the last arrival."""
        return self.requests[-1].arrival_s if self.requests else 0.0

    def prompt_tokens(self, request: TraceRequest) -> int:
        named = (request.system, *request.documents, *request.history)
        return sum(self.texts[each].tokens for each in named) + request.question_tokens
