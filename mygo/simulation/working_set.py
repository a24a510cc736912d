"""How large a cache would have to be to hold all of a trace that could ever be hit."""

from __future__ import annotations

from mygo.workloads.trace import TextId, Trace


def working_set_tokens(trace: Trace) -> int:
    """Tokens of all distinct texts in their paths: system prompt, documents as retrieved, history. Questions
    and answers are not counted, because they never come again."""
    paths: dict[tuple[TextId, ...], int] = {}
    for request in trace.requests:
        path: tuple[TextId, ...] = ()
        for text in (request.system, *request.documents, *request.history):
            path = (*path, text)
            paths[path] = trace.texts[text].tokens
    return sum(paths.values())
