"""RAGPulse: one week of a real campus question-answering service, with the identity of every passage.

A request line holds ids of the parts of its prompt; five files beside it hold each part's token length.

The trace is laid out under a stable template. As it was served, the tail of the system prompt (user, time)
differed in nearly every request, and its middle (the date) every day, before the passages; so no prefix
cache could ever have hit a passage. Here the leading system parts that stay over the trace are the system
text, and the rest counts to the question, which stands behind the documents, as do web search results,
which hardly ever repeat. Prompt lengths are the recorded ones, template text included.

Source: https://github.com/flashserve/RAGPulse (MIT licence).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, Field, model_validator

from mygo.errors import BadTrace
from mygo.types import DEFAULT_TENANT, DomainTag
from mygo.workloads.lines import lines_of, malformed, parsed
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest

EXAMPLE = (
    '{"timestamp": "27", "input_length": 3861, "output_length": 127, "hash_ids": {"sys_prompt": [8325, '
    '8326], "passages_ids": [6123, 7239], "history": [15215], "web_search": [], "user_input": [23648]}, '
    '"session_id": "1758081660427-xa8rbsd2uco1"}'
)
LENGTH_EXAMPLE = '{"passage_id": 6123, "token_length": 241}'
NO_SYSTEM = TextId("no-system")

_LENGTH_FILES = ("sys_prompt", "passages", "history", "web_search", "user_input")
_STABLE_SPAN = 0.5
"""A system part is stable if it occurs over at least this share of the trace's time: dates do not."""


class _Parts(BaseModel):
    sys_prompt: list[int]
    passages_ids: list[int]
    history: list[int]
    web_search: list[int]
    user_input: list[int]


class _Line(BaseModel):
    timestamp: float = Field(ge=0, allow_inf_nan=False)
    """Seconds since the start."""
    input_length: int = Field(ge=1)
    output_length: int = Field(ge=0)
    hash_ids: _Parts
    session_id: str | None = None


class _LengthLine(BaseModel):
    """``{"<kind>_id": id, "token_length": tokens}``."""

    id: int
    token_length: int = Field(ge=0)

    @model_validator(mode="before")
    @classmethod
    def _any_kind(cls, value: object) -> object:
        if isinstance(value, dict):
            return {("id" if str(key).endswith("_id") else key): each for key, each in value.items()}
        return value


def load_ragpulse(path: Path) -> Trace:
    """Read a RAGPulse trace; the length files (``*sys_prompt*.jsonl`` and so on) lie in its folder.

    Raises BadTrace that names the file and line, or the length file that is missing.
    """
    lengths = {kind: _Lengths(path, kind) for kind in _LENGTH_FILES}
    entries: list[_Line] = []
    for number, line in lines_of(path):
        entry = parsed(_Line, line, path, number, example=EXAMPLE)
        if entries and entry.timestamp < entries[-1].timestamp:
            problem = f"timestamp: {entry.timestamp:g} is before the line above"
            raise malformed(path, number, problem, example=EXAMPLE)
        for kind, ids in _ids_by_kind(entry.hash_ids):
            missing = [each for each in ids if each not in lengths[kind].tokens]
            if missing:
                problem = f"hash_ids.{kind}: {missing[0]} has no length in {lengths[kind].path.name}"
                raise malformed(path, number, problem, example=EXAMPLE)
        entries.append(entry)

    stable = _stable_parts(entries)
    texts: dict[TextId, Text] = {}
    requests: list[TraceRequest] = []
    for entry in entries:
        parts = entry.hash_ids
        leading = _leading(parts.sys_prompt, stable)
        system = TextId("system" + "".join(f"-{each}" for each in leading)) if leading else NO_SYSTEM
        texts[system] = Text(lengths["sys_prompt"].sum(leading))
        documents = tuple(TextId(f"passage{each}") for each in parts.passages_ids)
        history = tuple(TextId(f"history{each}") for each in parts.history)
        for name, each in zip(documents, parts.passages_ids, strict=True):
            texts[name] = Text(lengths["passages"].tokens[each])
        for name, each in zip(history, parts.history, strict=True):
            texts[name] = Text(lengths["history"].tokens[each], DomainTag(DEFAULT_TENANT))
        named_tokens = sum(texts[name].tokens for name in (system, *documents, *history))
        requests.append(
            TraceRequest(
                number=len(requests),
                arrival_s=entry.timestamp - entries[0].timestamp,
                system=system,
                documents=documents,
                question_tokens=max(1, entry.input_length - named_tokens),
                output_tokens=max(1, entry.output_length),
                history=history,
                session=entry.session_id,
            )
        )
    return Trace(
        path.stem,
        texts,
        tuple(requests),
        parameters={"source": f"RAGPulse, {path.name}"},
        corpus_documents=len(lengths["passages"].tokens),
    )


class _Lengths:
    """Token lengths by id, from the file beside ``trace`` that has ``kind`` in its name."""

    def __init__(self, trace: Path, kind: str) -> None:
        found = sorted(each for each in trace.parent.glob(f"*{kind}*.jsonl") if each != trace)
        if len(found) != 1:
            those = ", ".join(each.name for each in found) or "none"
            raise BadTrace(
                f"{trace}: RAGPulse keeps token lengths in files of their own, and beside it there must be "
                f"exactly one *{kind}*.jsonl; found: {those}"
            )
        self.path = found[0]
        self.tokens: dict[int, int] = {}
        for number, line in lines_of(self.path):
            entry = parsed(_LengthLine, line, self.path, number, example=LENGTH_EXAMPLE)
            self.tokens[entry.id] = entry.token_length

    def sum(self, ids: Iterable[int]) -> int:
        return sum(self.tokens[each] for each in ids)


def _ids_by_kind(parts: _Parts) -> tuple[tuple[str, list[int]], ...]:
    return tuple(
        zip(
            _LENGTH_FILES,
            (parts.sys_prompt, parts.passages_ids, parts.history, parts.web_search, parts.user_input),
            strict=True,
        )
    )


def _stable_parts(entries: list[_Line]) -> set[int]:
    first_s: dict[int, float] = {}
    last_s: dict[int, float] = {}
    for entry in entries:
        for part in entry.hash_ids.sys_prompt:
            first_s.setdefault(part, entry.timestamp)
            last_s[part] = entry.timestamp
    if not entries:
        return set()
    least_s = _STABLE_SPAN * (entries[-1].timestamp - entries[0].timestamp)
    return {part for part, at_s in first_s.items() if last_s[part] - at_s >= least_s}


def _leading(parts: list[int], stable: set[int]) -> list[int]:
    leading: list[int] = []
    for part in parts:
        if part not in stable:
            break
        leading.append(part)
    return leading
