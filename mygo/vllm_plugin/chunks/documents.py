"""The documents of a prompt, as far as its segment map tells: which they are, and who may read them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from mygo.blend.plan import Slot
from mygo.blend.variants import Birth, BirthKind, DocumentTag, Variant
from mygo.types import DomainTag, SegmentSpan


def slots(spans: Sequence[SegmentSpan]) -> list[Slot]:
    """Segments with a tag, in order. A domain is named by its salt."""
    found: list[Slot] = []
    domains: set[DomainTag] = set()
    start_tokens = 0
    for span in spans:
        domains.update(DomainTag(salt) for salt in (span.salt, span.own_salt) if salt)
        if span.tag and span.end_tokens > start_tokens:
            document = DocumentTag(span.tag)
            own_domain = DomainTag(span.own_salt) if span.own_salt else None
            found.append(Slot(document, start_tokens, span.end_tokens, frozenset(domains), own_domain))
        start_tokens = span.end_tokens
    return found


def leading(found: Sequence[Slot]) -> list[Slot]:
    """Those that lie behind the system prompt and each other, without anything in between."""
    run: list[Slot] = []
    for slot in found:
        if run and slot.start_tokens != run[-1].end_tokens:
            break
        run.append(slot)
    return run


def birth(
    before: Sequence[Slot],
    *,
    filler: bool,
    tags: Sequence[str] = (),
    reused: Iterable[Variant] = (),
    ranked_by: Iterable[DocumentTag] = (),
) -> Birth:
    """Of a document behind ``before``, which are neutral documents if ``filler``. ``reused``: those of them
    that were not computed; their blocks have ``tags``, in order. ``ranked_by``: what has had a say in which
    of their tokens were computed all the same."""
    if not before:
        return Birth(BirthKind.FIRST)
    if filler:
        return Birth(BirthKind.FILLER)
    documents = tuple(slot.document for slot in before)
    blend = hashlib.blake2b("".join(tags).encode(), digest_size=16).hexdigest() if tags else ""
    seen = {each for variant in reused for each in variant.birth.before + variant.birth.seen} | {*ranked_by}
    return Birth(BirthKind.CONTEXTUAL, documents, blend=blend, seen=tuple(sorted(seen - {*documents})))


def fingerprint(token_ids: Sequence[int]) -> str:
    """32 hex digits that name token ids."""
    return hashlib.blake2b(np.asarray(token_ids, dtype=np.int64).tobytes(), digest_size=16).hexdigest()
