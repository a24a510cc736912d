"""What the HTTP face asks of the rest of MyGO: one Protocol and its nouns.

Every method takes the tenant first and sees nothing of other tenants: an id that belongs to somebody else
raises NotFound like one that never existed. Errors are those of ``mygo.errors``; any other exception is a
bug and becomes a 500 without its text. Times are Unix seconds, durations seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from mygo.filters import Filter
from mygo.speculation import Overlap
from mygo.types import DocId, RequestId, Reuse, Route, Sampling, ScoredPassage, StoreId, TenantId, TokenDelta

T_co = TypeVar("T_co", covariant=True)

Role = Literal["system", "user", "assistant"]
DocumentOrder = Literal["retrieval", "cache"]
FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]
Attributes = Mapping[str, str | float | bool]

# --- answers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class InlineDocument:
    """A document that the caller's own retriever found, best first."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What to look for, and where. ``store_ids`` is never empty."""

    store_ids: tuple[StoreId, ...]
    top_k: int
    filters: Filter | None = None
    """Over the attributes of the stores' files; ``filters.matches`` evaluates it. Rankings by words and by
    vectors are fused among what passes if that is little, else before the filter."""
    min_score: float | None = None
    """Passages that score below are left out: a cosine similarity, or a share of the best possible score of
    a hybrid search."""
    embedding_weight: float = 1.0
    text_weight: float = 0.0
    """What the rankings by vectors and by words count; with 0 for words, scores are cosine similarities."""
    rerank: bool = True
    """Whether the deployment's reranker, if it has one, has the last word; scores are then its, in 0..1."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A validated question. The last message is the user's; every default is already filled in."""

    request_id: RequestId
    messages: tuple[Message, ...]
    sampling: Sampling
    retrieval: Retrieval | None = None
    documents: tuple[InlineDocument, ...] = ()
    """Never together with ``retrieval``; both may be absent (a plain chat)."""
    document_order: DocumentOrder = "retrieval"
    reuse: Reuse = Reuse.EXACT
    """The most that it allows; its stores may allow less."""

    @property
    def query(self) -> str:
        """What retrieval looks for: the last message."""
        return self.messages[-1].text


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, as it is shown to the caller."""

    document_id: DocId
    filename: str
    chunk: int
    """0-based position within the document."""
    content_hash: str
    score: float
    """Cosine similarity, or in 0..1 of a hybrid search; 0.0 for inline documents."""
    text: str
    attributes: Attributes = field(default_factory=dict)

    @classmethod
    def of(cls, scored: ScoredPassage, attributes: Attributes | None = None) -> Hit:
        passage = scored.passage
        return cls(
            document_id=passage.doc_id,
            filename=passage.filename,
            chunk=passage.index,
            content_hash=passage.content_hash,
            score=scored.score,
            text=passage.text,
            attributes=attributes or {},
        )


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """All that is known of an answer before its first token."""

    prompt_token_ids: Sequence[int]
    route: Route
    """Of the worker that answers, after any retries."""
    retrieval_s: float
    citations: tuple[Hit, ...] = ()
    """Documents in the prompt, best first: the first has number 1."""
    dropped: tuple[Hit, ...] = ()
    """Documents that did not fit the token budget."""
    degraded: tuple[str, ...] = ()
    """What went wrong without failing the request, one sentence each."""
    reuse: Reuse = Reuse.EXACT
    """What deployment, stores and request allow together."""
    overlap: Overlap | None = None
    """How retrieval and prefill overlapped; None without retrieval."""


class TokenStream(Protocol):
    """The deltas of one generation; the first has ``prefill``, the last has ``finish_reason``.

    ``aclose`` aborts the generation, *also if the iteration never began*. An async generator that was
    not started runs no ``finally``: start it (fetch the first delta) inside ``Service.answer``.
    """

    def __aiter__(self) -> AsyncIterator[TokenDelta]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    head: AnswerHead
    deltas: TokenStream


@dataclass(frozen=True, slots=True)
class SearchResult:
    hits: tuple[Hit, ...]
    """At most ``top_k``, best first."""
    degraded: tuple[str, ...] = ()


# --- the corpus --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, ordered by creation time. Cursors are ids and exclusive."""

    limit: int = 20
    descending: bool = True
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    items: tuple[T_co, ...]
    has_more: bool
    """True if further items follow in the direction of the listing."""


@dataclass(frozen=True, slots=True)
class FileView:
    id: DocId
    filename: str
    bytes: int
    purpose: str
    created_at_s: int


@dataclass(frozen=True, slots=True)
class FileCounts:
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class StoreView:
    id: StoreId
    name: str
    created_at_s: int
    counts: FileCounts
    usage_bytes: int = 0
    """Of the files as uploaded."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    public: bool = False
    """True if every tenant may read it."""
    reuse: Reuse | None = None
    """What KV of its documents may be reused; None: as the deployment allows."""


@dataclass(frozen=True, slots=True)
class StoreFileView:
    """A file as a member of a store."""

    file_id: DocId
    store_id: StoreId
    status: FileStatus
    created_at_s: int
    usage_bytes: int = 0
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None
    """Set if ``status`` is ``failed``: the reason, and what to do."""
    error_code: Literal["server_error", "unsupported_file", "invalid_file"] = "unsupported_file"


@dataclass(frozen=True, slots=True)
class BatchView:
    """Files that were put into a store together."""

    id: str
    store_id: StoreId
    created_at_s: int
    counts: FileCounts
    """Of its files as they are now; those that left the store are cancelled."""
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Readiness:
    missing: tuple[str, ...] = ()
    """What is not there yet, one phrase each; empty means ready."""
    detail: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return not self.missing


class Service(Protocol):
    """Everything behind the face. Cancelling any call must leave nothing running."""

    async def answer(self, tenant: TenantId, request: AnswerRequest) -> Answer:
        """Return once the first token is there, so that whatever fails before it has a proper status.

        Raises NotFound for an unknown store, BadRequest or TooLarge if the prompt cannot fit, Unavailable
        if no worker takes it. Later failures come out of the iterator.
        """
        ...

    async def search(self, tenant: TenantId, query: str, retrieval: Retrieval) -> SearchResult: ...

    async def create_store(
        self,
        tenant: TenantId,
        *,
        name: str,
        metadata: Mapping[str, str],
        public: bool,
        reuse: Reuse | None = None,
        file_ids: Sequence[DocId],
    ) -> StoreView:
        """Make a store and begin to ingest files into it, all or none."""
        ...

    async def update_store(
        self,
        tenant: TenantId,
        store_id: StoreId,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None,
        reuse: Reuse | None = None,
    ) -> StoreView:
        """Replace what is not None."""
        ...

    async def store(self, tenant: TenantId, store_id: StoreId) -> StoreView: ...

    async def stores(self, tenant: TenantId, page: Page) -> Listing[StoreView]: ...

    async def delete_store(self, tenant: TenantId, store_id: StoreId) -> None:
        """Remove the store and its memberships; the files stay."""
        ...

    async def create_file(self, tenant: TenantId, *, filename: str, purpose: str, content: bytes) -> FileView:
        """Keep an upload. Acknowledged means durable."""
        ...

    async def file(self, tenant: TenantId, file_id: DocId) -> FileView: ...

    async def files(self, tenant: TenantId, page: Page, *, purpose: str | None) -> Listing[FileView]: ...

    async def file_content(self, tenant: TenantId, file_id: DocId) -> bytes:
        """The upload, byte for byte."""
        ...

    async def delete_file(self, tenant: TenantId, file_id: DocId) -> None:
        """Remove the file, from all stores too."""
        ...

    async def attach_file(
        self, tenant: TenantId, store_id: StoreId, file_id: DocId, *, attributes: Attributes
    ) -> StoreFileView:
        """Begin to ingest a file into a store; attaching it again is the same as once."""
        ...

    async def store_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> StoreFileView: ...

    async def store_files(
        self, tenant: TenantId, store_id: StoreId, page: Page, *, status: FileStatus | None
    ) -> Listing[StoreFileView]: ...

    async def update_store_file(
        self, tenant: TenantId, store_id: StoreId, file_id: DocId, *, attributes: Attributes
    ) -> StoreFileView:
        """Replace the file's attributes in this store."""
        ...

    async def store_file_texts(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> list[str]:
        """The passages that were made of the file, in reading order; Conflict unless it is completed."""
        ...

    async def detach_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> None:
        """Remove a file from a store; the file itself stays."""
        ...

    async def create_batch(
        self, tenant: TenantId, store_id: StoreId, files: Sequence[tuple[DocId, Attributes]]
    ) -> BatchView:
        """Begin to ingest several files into a store, all or none."""
        ...

    async def batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> BatchView: ...

    async def batch_files(
        self, tenant: TenantId, store_id: StoreId, batch_id: str, page: Page, *, status: FileStatus | None
    ) -> Listing[StoreFileView]: ...

    async def cancel_batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> BatchView:
        """Give up the files that are not yet ingested; what is done stays."""
        ...

    async def remember_response(self, tenant: TenantId, response_id: str, value: bytes) -> None:
        """Keep a response for a while, for this tenant. It may be lost at any time; raises nothing."""
        ...

    async def recall_response(self, tenant: TenantId, response_id: str) -> bytes | None: ...

    async def forget_response(self, tenant: TenantId, response_id: str) -> bool:
        """True if there was something to forget."""
        ...

    async def readiness(self) -> Readiness: ...

    async def metrics_text(self) -> str:
        """In Prometheus's text exposition format."""
        ...
