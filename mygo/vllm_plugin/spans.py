"""The segment map that a request brings in ``kv_transfer_params["mygo"]``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mygo.blend.selection import Method, Repair
from mygo.errors import BadRequest
from mygo.types import DomainTag, GenerateRequest, SegmentKey, SegmentSpan
from mygo.types import Reuse as Reuse

_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class SegmentMap:
    """Which segment every token of a prompt belongs to."""

    spans: tuple[SegmentSpan, ...]
    """At least one; ends never fall, and the last is the prompt's length."""
    answer_domain: DomainTag | None
    """The path's domain at the end of the prompt; None if the answer is not to be reported."""
    reuse: Reuse = Reuse.EXACT
    filler: bool = False
    """The documents but the last are neutral ones, and the request is made to keep the last one's KV."""
    ticket: int | None = None
    """This is the comparison that the quality guard asked for by this number."""
    repair: Repair | None = None
    """Of a measurement: reuse documents so, whatever the engine's settings and its quality guard say."""

    @property
    def lonely_tokens(self) -> int | None:
        """From which token on nothing is shared with any other request: the document that a filler request is
        made for is computed as a whole, whatever an aborted one has left of it. None: all may be shared."""
        last = max((number for number, span in enumerate(self.spans) if span.tag), default=0)
        return self.spans[last - 1].end_tokens if self.filler and last else None

    def salt_at(self, end_tokens: int) -> str:
        """Salt of the segment that ends there."""
        return next(span.salt for span in self.spans if span.end_tokens == end_tokens and span.tag)


def parse(kv_transfer_params: Mapping[str, Any] | None, prompt_tokens: int) -> SegmentMap | None:
    """Read the segment map of a request; None if it brings none (a stock client).

    Form: ``{"mygo": {"spans": [[key, end_tokens, salt, tag, own_salt], ...], "answer_domain": str,
    "reuse": "exact" | "blend", "filler": bool, "ticket": int, "repair": {"share": float, "floor_tokens":
    int, "method": str}}}``; all but the spans may be left out, as may a tag and the salt behind it.
    Raises BadRequest if the map is there but wrong.
    """
    if not kv_transfer_params or "mygo" not in kv_transfer_params:
        return None
    raw = kv_transfer_params["mygo"]
    if not isinstance(raw, Mapping):
        raise _wrong(f"must be a mapping, not {type(raw).__name__}")
    raw_spans = raw.get("spans")
    if not isinstance(raw_spans, list | tuple) or not raw_spans:
        raise _wrong("spans must be a non-empty list of [key, end_tokens, salt, tag, own_salt]")
    spans = tuple(_span(entry) for entry in raw_spans)
    ends = [span.end_tokens for span in spans]
    if ends != sorted(ends) or ends[-1] != prompt_tokens:
        raise _wrong(f"spans end at {ends}: ends must not fall, and the last be {prompt_tokens}")
    domain = raw.get("answer_domain")
    if domain is not None and not isinstance(domain, str):
        raise _wrong(f"answer_domain must be a string, not {domain!r}")
    reuse, filler = raw.get("reuse", Reuse.EXACT), raw.get("filler", False)
    if reuse not in tuple(Reuse):
        raise _wrong(f"reuse must be one of {', '.join(Reuse)}, not {reuse!r}")
    if not isinstance(filler, bool):
        raise _wrong(f"filler must be true or false, not {filler!r}")
    ticket = raw.get("ticket")
    if ticket is not None and type(ticket) is not int:
        raise _wrong(f"ticket must be a whole number, not {ticket!r}")
    return SegmentMap(
        spans,
        None if domain is None else DomainTag(domain),
        Reuse(reuse),
        filler,
        ticket,
        _repair(raw.get("repair")),
    )


def entries(spans: Sequence[SegmentSpan]) -> list[list[Any]]:
    """The ``spans`` of a request's segment map, as ``parse`` reads them."""
    return [[span.key, span.end_tokens, span.salt, span.tag, span.own_salt] for span in spans]


def params(request: GenerateRequest) -> dict[str, Any] | None:
    """The ``kv_transfer_params`` of a request; None if it has no spans."""
    if not request.spans:
        return None
    segments = {
        "spans": entries(request.spans),
        "answer_domain": request.answer_domain,
        "reuse": request.reuse.value,
    }
    return {"mygo": segments | ({"filler": True} if request.is_filling else {})}


def _repair(raw: object) -> Repair | None:
    match raw:
        case None:
            return None
        case {"share": float(share), "floor_tokens": int(floor_tokens), "method": str(method)} if (
            0 <= share <= 1 and floor_tokens >= 0 and method in tuple(Method)
        ):
            return Repair(share, floor_tokens, Method(method))
        case _:
            raise _wrong(
                f"{raw!r} is no repair: give share, from 0.0 to 1.0, floor_tokens, and method, one of "
                f"{', '.join(Method)}"
            )


def _span(entry: Any) -> SegmentSpan:
    # for each span of each request: ``match`` with patterns of types takes three times as long
    if isinstance(entry, list | tuple) and 3 <= len(entry) <= 5:
        key, end_tokens, salt, tag, own_salt = (*entry, "", "")[:5]
        is_typed = type(key) is type(salt) is type(tag) is type(own_salt) is str and type(end_tokens) is int
        if is_typed and end_tokens >= 0 and _KEY.fullmatch(key) and (not tag or _KEY.fullmatch(tag)):
            return SegmentSpan(SegmentKey(key), end_tokens, salt, tag, own_salt)
    raise _wrong(
        f"{entry!r} is not a span [key, end_tokens, salt, tag, own_salt], key and tag of 32 hex digits"
    )


def _wrong(problem: str) -> BadRequest:
    return BadRequest(f"kv_transfer_params.mygo: {problem}", param="kv_transfer_params")
