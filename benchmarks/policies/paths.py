"""Traces as paths of blocks: what a cache of one tier is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from mygo.workloads.trace import Text, TextId, Trace, TraceRequest


@dataclass(frozen=True, slots=True)
class Access:
    """One request: its blocks from the first token on, one per text."""

    blocks: tuple[bytes, ...]
    sizes: tuple[int, ...]
    """Tokens of each block."""
    ends: tuple[int, ...]
    """Token positions where the blocks end."""
    answer: bytes | None
    """The block of the generated answer; None if there is none."""
    answer_tokens: int

    @property
    def tokens(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Replay:
    """A trace as a cache sees it."""

    name: str
    accesses: tuple[Access, ...]
    working_set_tokens: int
    """Of all distinct texts in their paths, questions and answers not counted: they never come again."""


def replay_of(trace: Trace, *, single: bool = False) -> Replay:
    """Lay requests out as the prompt room does: system, documents as retrieved, history, question.

    ``single``: each document access is a request of its own for that document alone, whole, wherever it
    stands: what caches of independent objects are compared on.
    """
    names = _Names()
    if single:
        accesses = tuple(
            _of((names.block((document,)),), (trace.texts[document].tokens,))
            for request in trace.requests
            for document in request.documents
        )
    else:
        accesses = tuple(_access(request, trace, names) for request in trace.requests)
    return Replay(trace.name, accesses, _working_set_tokens(accesses, questions=not single))


class _Names:
    """Short names of paths: a block's name stands for all that is before it."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], bytes] = {}

    def block(self, path: tuple[str, ...]) -> bytes:
        return self._names.setdefault(path, len(self._names).to_bytes(4, "little"))


def _access(request: TraceRequest, trace: Trace, names: _Names) -> Access:
    blocks: list[bytes] = []
    sizes: list[int] = []
    path: tuple[str, ...] = ()
    for name, tokens in _texts(request, trace.texts):
        path = (*path, name)
        if tokens:
            blocks.append(names.block(path))
            sizes.append(tokens)
    answer = names.block((*path, "answer"))
    return _of(tuple(blocks), tuple(sizes), answer, request.output_tokens)


def _of(
    blocks: tuple[bytes, ...], sizes: tuple[int, ...], answer: bytes | None = None, answer_tokens: int = 0
) -> Access:
    return Access(blocks, sizes, tuple(accumulate(sizes)), answer, answer_tokens)


def _working_set_tokens(accesses: tuple[Access, ...], *, questions: bool) -> int:
    sizes: dict[bytes, int] = {}
    for access in accesses:
        last = len(access.blocks) - questions
        sizes.update(zip(access.blocks[:last], access.sizes[:last], strict=True))
    return sum(sizes.values())


def _texts(request: TraceRequest, texts: Mapping[TextId, Text]) -> Iterator[tuple[str, int]]:
    for name in (request.system, *request.documents, *request.history):
        yield name, texts[name].tokens
    yield f"question {request.number}", max(1, request.question_tokens)
