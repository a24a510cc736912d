"""Remembers earlier turns as ids, so that the next turn can be appended to them.

Chat clients send text again, not ids, and text does not always tokenize back to what the model
generated. So a turn is found by its tenant and the exact messages up to and including its answer.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mygo.prompt.template import Message
from mygo.types import ContentHash, DomainTag, Prompt, SegmentKey, StoreId, TenantId


@dataclass(frozen=True, slots=True)
class Earlier:
    """A turn that was answered: its prompt, and the answer as the model generated it."""

    prompt: Prompt
    answer_ids: tuple[int, ...]


_Document = tuple[DomainTag, ContentHash]


class Conversations:
    """The latest ``capacity`` turns, least recently used out first. 0 remembers nothing.

    ``root`` and ``system``: the model's root key and the deployment's system text; both belong to what
    a turn was. Not safe for use from several threads at once.
    """

    def __init__(
        self,
        capacity: int,
        *,
        root: SegmentKey,
        system: str,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """``clock``: of ``came_s``, see ``remember``."""
        self._capacity = capacity
        self._clock = clock
        self._identity = (root, system)
        self._turns: OrderedDict[str, Earlier] = OrderedDict()
        self._turns_with: defaultdict[_Document, set[str]] = defaultdict(set)
        self._forgotten: OrderedDict[_Document, float] = OrderedDict()
        """And when, the latest last."""
        self._unknown_before_s = -math.inf
        """What was forgotten until then may be known no more."""

    def __repr__(self) -> str:
        return f"Conversations({len(self._turns)}/{self._capacity}, forgotten={len(self._forgotten)})"

    def remember(
        self,
        tenant: TenantId,
        messages: Sequence[Message],
        prompt: Prompt,
        answer_text: str,
        answer_ids: Sequence[int],
        *,
        stores: Iterable[StoreId] = (),
        came_s: float = math.inf,
    ) -> None:
        """Keep the turn that answered ``messages`` (all that the client sent) with ``answer_text``.

        ``answer_ids`` must be what the engine generated for exactly that text: do not remember an
        answer cut by a stop string. ``stores`` are the vector stores that were searched: the same words
        over other stores are another conversation. A prompt with a forgotten document is not kept; nor one
        of a request that ``came_s`` (by the clock) so long ago that too many were forgotten since to know.
        """
        documents = _documents(prompt)
        if self._capacity == 0 or documents & self._forgotten.keys() or came_s <= self._unknown_before_s:
            return
        key = self._key(tenant, [*messages, Message("assistant", answer_text)], stores)
        self._drop(key)
        self._turns[key] = Earlier(prompt, tuple(answer_ids))
        for document in documents:
            self._turns_with[document].add(key)
        if len(self._turns) > self._capacity:
            self._drop(next(iter(self._turns)))

    def recall(
        self,
        tenant: TenantId,
        messages_before_last: Sequence[Message],
        *,
        stores: Iterable[StoreId] = (),
    ) -> Earlier | None:
        """The turn that ended with exactly these messages, or None."""
        key = self._key(tenant, messages_before_last, stores)
        if key not in self._turns:
            return None
        self._turns.move_to_end(key)
        return self._turns[key]

    def forget_document(self, domain: DomainTag, content_hash: ContentHash) -> None:
        """Drop all turns with this document, and refuse those whose answers are still being generated.

        The tombstone stays until ``admit_document``, or until as many newer ones came as turns fit: then
        nothing is remembered that was asked before it.
        """
        document = (domain, content_hash)
        for key in tuple(self._turns_with.get(document, ())):
            self._drop(key)
        self._forgotten[document] = self._clock()
        self._forgotten.move_to_end(document)
        if len(self._forgotten) > self._capacity:
            _, self._unknown_before_s = self._forgotten.popitem(last=False)

    def admit_document(self, domain: DomainTag, content_hash: ContentHash) -> None:
        """The document was added again: turns with it may be remembered from now on."""
        self._forgotten.pop((domain, content_hash), None)

    def _drop(self, key: str) -> None:
        turn = self._turns.pop(key, None)
        if turn is None:
            return
        for document in _documents(turn.prompt):
            self._turns_with[document].discard(key)
            if not self._turns_with[document]:
                del self._turns_with[document]

    def _key(self, tenant: TenantId, messages: Sequence[Message], stores: Iterable[StoreId]) -> str:
        parts = [*self._identity, tenant, *sorted(stores), ""]
        for message in messages:
            parts += [message.role, message.content]
        digest = hashlib.blake2b(digest_size=16)
        for part in parts:
            data = part.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def _documents(prompt: Prompt) -> set[_Document]:
    passages = (segment.passage for segment in prompt.segments)
    return {(passage.domain, passage.content_hash) for passage in passages if passage is not None}
