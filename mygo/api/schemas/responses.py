"""The body of POST /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from mygo.api.schemas.base import Body, Part
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


def _input_items(value: Any) -> Any:
    """Normalise ``input``: a string is one message of the user's.

    Clients append a response's output to the next input; of that, the searches are dropped.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of messages")
    return [item for item in value if not (isinstance(item, dict) and item.get("type") == "file_search_call")]


class InputMessage(Part):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: TextParts


class FileSearchTool(Part):
    type: Literal["file_search"]
    vector_store_ids: list[str] = Field(min_length=1)
    max_num_results: int | None = Field(default=None, ge=1)
    filters: FilterPart | None = None
    ranking_options: RankingOptions | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _is_file_search(cls, value: object) -> object:
        if value != "file_search":
            raise PydanticCustomError(
                "unsupported_tool", "this server has one tool, 'file_search': remove the others"
            )
        return value


class ResponseStreamOptions(Part):
    include_obfuscation: bool | None = None
    """Accepted and ignored: events are not padded."""


class ResponseBody(Body):
    model: str
    input: Annotated[
        list[InputMessage],
        Field(min_length=1, max_length=MAX_MESSAGES),  # of the list itself, as for TextParts
        BeforeValidator(_input_items),
    ]
    instructions: str | None = None
    tools: list[FileSearchTool] | None = Field(default=None, max_length=1)
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    """Absent means true, as with OpenAI."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    metadata: dict[str, str] | None = None

    # MyGO's own
    document_order: DocumentOrder = None
    reuse: ReuseChoice = None

    IGNORED: ClassVar = (IGNORED - {"store", "metadata"}) | {
        "tool_choice",
        "max_tool_calls",
        "reasoning",
        "truncation",
    }
    REFUSED: ClassVar = ENGINE_FIELDS | {
        "background": "responses are generated while the client waits; use stream",
        "conversation": "use previous_response_id",
        "prompt": "stored prompts are not offered; use instructions",
        "text": "only plain text is generated; describe the format in instructions",
        "top_logprobs": "use /v1/chat/completions with logprobs",
        "context_management": "send less input, or raise model.max_context_tokens",
        "moderation": "there is no moderation; remove it",
        "vector_store_ids": "put them into tools: [{'type': 'file_search', 'vector_store_ids': [...]}]",
        "documents": "inline documents go to /v1/chat/completions",
        "top_k": "use max_num_results of the file_search tool",
        "filters": "put them into the file_search tool",
        "messages": "use input",
        "max_tokens": "use max_output_tokens",
    }
    NEUTRAL: ClassVar = ENGINE_NEUTRAL | {
        "text": ({"format": {"type": "text"}},),
        "top_logprobs": (0,),
    }

    @field_validator("include")
    @classmethod
    def _known_includes(cls, value: list[str] | None) -> list[str] | None:
        for name in value or ():
            if name != "file_search_call.results":
                raise ValueError(f"{name!r} cannot be included; only 'file_search_call.results' can")
        return value
