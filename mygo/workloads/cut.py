"""Traces made of a trace: a beginning of it, faster, shorter texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mygo.errors import BadTrace
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest, Update


def first(trace: Trace, requests: int) -> Trace:
    """The first ``requests`` requests, the updates among them, and the texts that these name.

    All of it if it has fewer. Raises BadTrace if ``requests`` is below 1.
    """
    if requests < 1:
        raise BadTrace(f"requests: must be at least 1, not {requests}")
    if requests >= len(trace.requests):
        return trace
    kept = trace.requests[:requests]
    updates = tuple(update for update in trace.updates if update.at_s <= kept[-1].arrival_s)
    return replace(
        trace,
        requests=kept,
        updates=updates,
        texts=only_named(trace.texts, kept, updates),
        parameters={**trace.parameters, "requests": str(requests)},
    )


def scaled(
    trace: Trace,
    *,
    rate_per_s: float | None = None,
    token_scale: float = 1.0,
    output_scale: float = 1.0,
) -> Trace:
    """The same requests at another mean rate, with other lengths.

    ``rate_per_s``: all times are stretched so that requests over duration is this; None leaves them.
    ``token_scale`` multiplies every text and question, so that what share of a prompt is system text,
    documents, history and question stays; ``output_scale`` the answers. A length of at least one token
    stays at least one. The factors are noted in ``parameters``. Raises BadTrace if a figure is not above 0,
    or if a rate is asked of a trace whose requests all come at once.
    """
    for name, value in (
        ("rate_per_s", rate_per_s),
        ("token_scale", token_scale),
        ("output_scale", output_scale),
    ):
        if value is not None and not 0 < value < math.inf:
            raise BadTrace(f"{name}: must be above 0 and finite, not {value}")
    stretch = 1.0
    if rate_per_s is not None:
        if not trace.duration_s:
            raise BadTrace(f"{trace.name}: its requests come all at once, so they have no rate to change")
        stretch = len(trace.requests) / rate_per_s / trace.duration_s
    noted = {"rate_per_s": rate_per_s, "token_scale": token_scale, "output_scale": output_scale}
    changed = {name: f"{value:g}" for name, value in noted.items() if value not in (None, 1.0)}
    return replace(
        trace,
        texts={
            name: replace(text, tokens=_scaled(text.tokens, token_scale))
            for name, text in trace.texts.items()
        },
        requests=tuple(
            replace(
                each,
                arrival_s=each.arrival_s * stretch,
                question_tokens=_scaled(each.question_tokens, token_scale),
                output_tokens=_scaled(each.output_tokens, output_scale),
            )
            for each in trace.requests
        ),
        updates=tuple(replace(each, at_s=each.at_s * stretch) for each in trace.updates),
        parameters={**trace.parameters, **{f"scaled.{name}": value for name, value in changed.items()}},
    )


def only_named(
    texts: Mapping[TextId, Text], requests: Iterable[TraceRequest], updates: Iterable[Update]
) -> dict[TextId, Text]:
    """The texts that requests and updates name, and the originals of copies among them, in order of use."""
    named: dict[TextId, None] = {}
    for request in requests:
        named.update(dict.fromkeys((request.system, *request.documents, *request.history)))
    for update in updates:
        named.update(dict.fromkeys((update.old, update.new)))
    for name in tuple(named):
        original = texts[name].copy_of
        if original is not None:
            named[original] = None
    return {name: texts[name] for name in named}


def _scaled(tokens: int, factor: float) -> int:
    return max(1, round(tokens * factor)) if tokens else 0
