"""Checks that need the deployment's limits, and so cannot stand in a schema."""

from __future__ import annotations

from collections.abc import Sequence

from mygo.api.service import InlineDocument, Message
from mygo.errors import BadRequest, TooLarge


def check_messages(messages: Sequence[Message], max_chars: int, *, param: str) -> None:
    """The conversation ends with a question, and its text is within ``http.max_message_chars``."""
    chars = sum(len(message.text) for message in messages)
    if chars > max_chars:
        raise TooLarge(
            f"{param}: {chars} characters of text are more than the {max_chars} allowed; "
            "shorten them, or put documents into a vector store",
            param=param,
        )
    last = len(messages) - 1
    if messages[last].role != "user":
        raise BadRequest(
            f"{param}: the last message is from {messages[last].role!r}; it must be the user's question",
            param=f"{param}[{last}].role",
        )
    for index, message in enumerate(messages):
        if message.role == "user" and not message.text.strip():
            raise BadRequest(
                f"{param}[{index}].content is empty; write a question", param=f"{param}[{index}].content"
            )


def check_documents(documents: Sequence[InlineDocument], max_chars: int, max_documents: int) -> None:
    """Inline documents are few enough, short enough, and told apart by their ids."""
    if len(documents) > max_documents:
        raise BadRequest(
            f"documents: {len(documents)} are more than this deployment allows; send at most {max_documents}",
            param="documents",
        )
    chars = sum(len(document.text) for document in documents)
    if chars > max_chars:
        raise TooLarge(
            f"documents: {chars} characters of text are more than the {max_chars} allowed; "
            "send fewer, or put them into a vector store",
            param="documents",
        )
    seen: set[str] = set()
    for index, document in enumerate(documents):
        if document.id in seen:
            raise BadRequest(
                f"documents[{index}].id {document.id[:80]!r} occurs twice; give every document its own id",
                param=f"documents[{index}].id",
            )
        seen.add(document.id)
