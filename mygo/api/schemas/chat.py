"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mygo.api.schemas.base import Body, Part, one_or_many
from mygo.api.schemas.rag import (
    ENGINE_FIELDS,
    ENGINE_NEUTRAL,
    IGNORED,
    MAX_MESSAGES,
    DocumentOrder,
    FilterPart,
    RankingOptions,
    ReuseChoice,
    TextParts,
)

_NO_TOOLS = "chat completions call no tools; name documents with vector_store_ids, or use /v1/responses"

MAX_DOCUMENTS = 4096

Stops = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(one_or_many)]


class ChatMessage(Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: TextParts = Field(default_factory=list)
    tool_calls: Annotated[list[object] | None, Field(max_length=0)] = None


class Document(Part):
    """A document from the caller's own retriever."""

    id: str = Field(min_length=1, max_length=256)
    text: str = Field(min_length=1)
    title: str | None = Field(default=None, max_length=512)


class StreamOptions(Part):
    include_usage: bool | None = None


class ChatBody(Body):
    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: Stops | None = Field(default=None, max_length=16)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    """As in vLLM: the response carries prompt_token_ids, and token_ids per choice."""

    # MyGO's own
    vector_store_ids: list[str] | None = None
    documents: list[Document] | None = Field(default=None, max_length=MAX_DOCUMENTS)
    top_k: int | None = Field(default=None, ge=1)
    """Passages to retrieve; of ``documents``, how many to use."""
    filters: FilterPart | None = None
    ranking_options: RankingOptions | None = None
    document_order: DocumentOrder = None
    reuse: ReuseChoice = None
    citation_text: bool | None = None
    """True puts the passages' text into mygo.citations."""

    IGNORED: ClassVar = IGNORED
    REFUSED: ClassVar = ENGINE_FIELDS | {
        "tools": _NO_TOOLS,
        "tool_choice": _NO_TOOLS,
        "functions": _NO_TOOLS,
        "function_call": _NO_TOOLS,
        "response_format": "only text is generated; describe the format in a message",
        "modalities": "only text is generated; remove it",
        "audio": "only text is generated; remove it",
        "prediction": "predicted outputs are not offered; remove it",
        "logit_bias": "logit bias is not offered; remove it",
        "web_search_options": "there is no web search; put documents into a vector store",
        "moderation": "there is no moderation; remove it",
        "conversation": "send the whole conversation as messages",
    }
    NEUTRAL: ClassVar = ENGINE_NEUTRAL | {
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
    }

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.vector_store_ids and self.documents:
            raise ValueError("send vector_store_ids or documents, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ: send one of them")
        return self
