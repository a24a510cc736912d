"""The request by which an engine computes a document behind neutral ones, and keeps it. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mygo.blend.fillers import Copy
from mygo.blend.variants import DocumentTag
from mygo.tree.keys import passage_tag, segment_key
from mygo.types import (
    PUBLIC,
    ContentHash,
    DomainTag,
    GenerateRequest,
    RequestId,
    Reuse,
    Sampling,
    SegmentKey,
    SegmentSpan,
)


@dataclass(frozen=True, slots=True)
class FillerNews:
    """What an answer tells of copies behind neutral documents."""

    used_tokens: int = 0
    """Of documents that were loaded from such copies, what was repaired of them included."""
    wanted: tuple[tuple[int, float], ...] = ()
    """Segments of the prompt that should have one, and what each is worth."""


NO_KEY = SegmentKey("0" * 32)
"""Above a prompt that begins with its first document."""


def copy_of(request: GenerateRequest, number: int) -> Copy:
    """The copy that the document in segment ``number`` of a request would have."""
    span = request.spans[number]
    return DocumentTag(span.tag), DomainTag(span.own_salt)


def filling(
    request: GenerateRequest, number: int, neutral: Sequence[Sequence[int]], request_id: RequestId
) -> GenerateRequest:
    """Computes the document in segment ``number`` of ``request`` behind its system prompt and the neutral
    documents (token ids). Nothing else of the request is in it.

    The system prompt's domain covers the neutral documents, the document's own path (``own_salt``) itself: so
    who may hit what is computed is who may read the document and the system prompt.
    """
    first = next(index for index, span in enumerate(request.spans) if span.tag)
    spans = list(request.spans[:first])
    start_tokens = spans[-1].end_tokens if spans else 0
    token_ids = list(request.token_ids[:start_tokens])
    document = request.spans[number]
    document_ids = request.token_ids[
        request.spans[number - 1].end_tokens if number else 0 : document.end_tokens
    ]
    salt = spans[-1].salt if spans else document.own_salt
    parent = spans[-1].key if spans else NO_KEY
    parts = [(ids, salt, _neutral_tag(ids)) for ids in neutral]
    for ids, part_salt, tag in [*parts, (document_ids, document.own_salt, document.tag)]:
        token_ids += ids
        parent = segment_key(parent, DomainTag(part_salt), ids)
        spans.append(SegmentSpan(parent, len(token_ids), part_salt, tag, part_salt))
    return replace(
        request,
        request_id=request_id,
        token_ids=token_ids,
        spans=tuple(spans),
        sampling=Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
        reuse=Reuse.EXACT,
        is_filling=True,
    )


def _neutral_tag(ids: Sequence[int]) -> str:
    return passage_tag(b"neutral", PUBLIC, ContentHash(",".join(map(str, ids))))
