"""The nouns that rooms share, frozen and with units. Nothing here does I/O or reads a clock.

Reading order: ids -> segments and prompts -> what a worker holds -> what a worker is asked -> routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

TenantId = NewType("TenantId", str)
StoreId = NewType("StoreId", str)
"""A vector store: ``vs_...``."""
DocId = NewType("DocId", str)
"""A document in the journal. Over HTTP it is the OpenAI file id, ``file-...``."""
ContentHash = NewType("ContentHash", str)
"""Hex SHA-256 of a text or of a file's bytes, as the field says."""
SegmentKey = NewType("SegmentKey", str)
"""Names a segment *in its path*: H(parent key, tag, token ids). Made by ``mygo.tree.keys``."""
DomainTag = NewType("DomainTag", str)
"""A sharing domain: ``public``, a tenant, or a combination ``a+b``. See ``mygo.tree.keys.narrow``."""
WorkerId = NewType("WorkerId", str)
RequestId = NewType("RequestId", str)

PUBLIC = DomainTag("public")
DEFAULT_TENANT = TenantId("default")


class Tier(StrEnum):
    """Where KV lies, fastest first."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


# --- documents ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passage:
    """One chunk of a document: the unit that is embedded, retrieved, cited and cached.

    A document that comes inline with a request is one passage, whole.
    """

    doc_id: DocId
    index: int
    """0-based position of the chunk within its document."""
    text: str
    content_hash: ContentHash
    store_id: StoreId | None = None
    """None for documents that came inline with the request."""
    filename: str = ""
    domain: DomainTag = PUBLIC


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    passage: Passage
    score: float
    """Cosine similarity in [-1, 1]; higher is closer. 0.0 for inline documents."""


# --- prompts -----------------------------------------------------------------------------------


class SegmentKind(StrEnum):
    SYSTEM = "system"
    DOCUMENT = "document"
    TURN = "turn"
    """Volatile text of a conversation: history, question, and the template around them."""
    ANSWER = "answer"
    """An earlier answer, as the ids that the model generated."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of token ids that is tokenized by itself, so that its ids never depend on neighbours."""

    kind: SegmentKind
    token_ids: tuple[int, ...]
    key: SegmentKey
    domain: DomainTag
    """The narrowest domain on the path up to and including this segment."""
    passage: Passage | None = None


@dataclass(frozen=True, slots=True)
class PathStep:
    """What look-ups need of a segment: its key and where it lies in the prompt."""

    key: SegmentKey
    start_tokens: int
    end_tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    segments: tuple[Segment, ...]
    citations: tuple[ScoredPassage, ...] = ()
    """Documents in the prompt, in the order of their numbers for display (the ranking)."""
    dropped: tuple[Passage, ...] = ()
    """Documents that did not fit the token budget, best first."""

    @property
    def token_ids(self) -> list[int]:
        return [token for segment in self.segments for token in segment.token_ids]

    @property
    def tokens(self) -> int:
        return sum(len(segment.token_ids) for segment in self.segments)

    @property
    def path(self) -> tuple[PathStep, ...]:
        steps: list[PathStep] = []
        start = 0
        for segment in self.segments:
            end = start + len(segment.token_ids)
            steps.append(PathStep(segment.key, start, end))
            start = end
        return tuple(steps)


# --- what a worker holds -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResidencyEvent:
    """A worker's statement about one segment, replacing any earlier one about it.

    A vLLM block belongs to the segment of its last token. ``prefix_tokens`` is the *absolute* number
    of leading prompt tokens that are valid if every ancestor is complete; 0 means that nothing of the
    segment is held any more. ``complete`` says that all blocks of the segment are held. A segment
    that owns no block (shorter than a block) is never reported.
    """

    key: SegmentKey
    parent: SegmentKey | None
    start_tokens: int
    end_tokens: int
    prefix_tokens: int
    complete: bool
    tier: Tier = Tier.DEVICE


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    waiting: int = 0
    """Requests that the engine has not begun."""
    running: int = 0
    """Requests that the engine is computing."""
    queued_tokens: int = 0
    """Prompt tokens still to be computed, of waiting and running requests."""
    free_tokens: int = 0
    """Device KV tokens that could be allocated now (evictable ones included)."""
    host_tokens_per_s: float = 0.0
    """KV tokens that come from host memory to the device, as last measured; 0: no such tier."""
    disk_tokens_per_s: float = 0.0
    """KV tokens that come from disk to host memory, as last measured; 0: no such tier."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One batch from one worker. Sequences are dense per epoch: a gap means lost events."""

    worker: WorkerId
    epoch: str
    """Names the engine's incarnation; a new one means an empty cache."""
    sequence: int
    events: tuple[ResidencyEvent, ...]
    load: WorkerLoad
    snapshot: bool = False
    """True if ``events`` is all that the worker holds: the receiver forgets the rest."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself once, when it joins."""

    worker: WorkerId
    epoch: str
    model: str
    block_tokens: int
    device_tokens: int
    """Capacity of the device tier in tokens."""
    max_context_tokens: int
    profile: ProfileGrid
    node: str = ""


@dataclass(frozen=True, slots=True)
class ProfileGrid:
    """Measured prefill seconds: ``seconds[i][j]`` = T(cached_tokens[i], new_tokens[j])."""

    cached_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Residency:
    """How many leading tokens of one prompt a worker holds, by the tier they must come from."""

    device_tokens: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0

    @property
    def cached_tokens(self) -> int:
        return self.device_tokens + self.host_tokens + self.disk_tokens


class Phase(StrEnum):
    """How far a dispatched request has come, as its ingress sees it."""

    PREFILL = "prefill"
    """No token has come back."""
    DECODE = "decode"
    """Tokens are streaming: its prefill is no longer ahead of anybody."""
    DONE = "done"
    """It ended; the worker's own events about it may still be on their way."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A request that an ingress has sent to a worker: what it announces to the other replicas.

    Times are seconds on a clock that all ingress replicas share (wall clock).
    """

    request: RequestId
    worker: WorkerId
    path: tuple[PathStep, ...]
    prefill_s: float
    """Predicted prefill seconds, without the queue."""
    sent_s: float
    expires_s: float
    """When its path stops counting as held if nothing was heard of it."""
    phase: Phase = Phase.PREFILL


# --- what a worker is asked --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters under OpenAI's names, validated by the HTTP face."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    """Top alternatives per token; None for no logprobs at all."""
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class SegmentSpan:
    """A segment as the engine sees it: no text, no ids, only where it ends and whose it is."""

    key: SegmentKey
    end_tokens: int
    salt: str
    """HMAC of the path's domain here; where it changes, block hashes change too."""
    tag: str = ""
    """HMAC of a passage's own domain and content, by which its KV is found when the passage is deleted;
    empty for what is no document."""
    own_salt: str = ""
    """Of a document: HMAC of the path's domain, were it behind the system prompt alone."""


class Reuse(StrEnum):
    """What KV may be reused for a request."""

    EXACT = "exact"
    """Its own prefix only: the answer is what it would be without any cache."""
    BLEND = "blend"
    """Documents' KV from other prompts too, partly computed anew: an approximation."""

    @staticmethod
    def narrowest(settings: Iterable[Reuse | None]) -> Reuse:
        """What all allow who have a say; None has none. At least one must have."""
        said = [setting for setting in settings if setting is not None]
        return Reuse.EXACT if Reuse.EXACT in said else said[0]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    request_id: RequestId
    token_ids: list[int]
    spans: tuple[SegmentSpan, ...]
    """Cover ``token_ids`` in order; empty for requests without a segment map."""
    sampling: Sampling
    answer_domain: DomainTag = PUBLIC
    """The domain of the answer, under which a next turn will look for it."""
    reuse: Reuse = Reuse.EXACT
    is_filling: bool = False
    """Made to keep the last document's KV; those before it are neutral (``vllm_plugin/filling.py``)."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Uncached(StrEnum):
    """Why an engine computed prompt tokens; what only other sharing domains have had is ``never_seen``."""

    NEVER_SEEN = "never_seen"
    """No prompt had them in this place before, as far as the engine remembers."""
    EVICTED = "evicted"
    """An earlier prompt had them, but they, or something before them, have left every tier."""
    NOT_WORTH_LOADING = "not_worth_loading"
    """A slower tier held them, and computing was predicted to be sooner."""
    NOT_LOADABLE = "not_loadable"
    """A slower tier held them, but could not bring them in time: a failed read, or no room to read into."""
    PROMPT_END = "prompt_end"
    """The last token is always computed, and only whole blocks are cached."""


@dataclass(frozen=True, slots=True)
class ChunkUse:
    """What of a prompt came from documents' KV that is kept apart from their prompts."""

    loaded_tokens: int
    repaired_tokens: int
    """Of the same documents, computed."""
    approximate: bool
    """Some of the prompt has seen documents that were not in the place where they had been computed."""


@dataclass(frozen=True, slots=True)
class PrefillStats:
    """How a prompt was served."""

    cached_tokens: Mapping[Tier, int]
    """By the tier that they came from. All count as ``device`` while ``uncached_tokens`` is None."""
    queue_s: float
    prefill_s: float
    uncached_tokens: Mapping[Uncached, int] | None = None
    """The rest of the prompt, by why it was computed. None if the engine has not told (yet): it tells with
    the last token, and not at all when a stop string ended the answer."""
    chunks: ChunkUse | None = None
    """None if the prompt had no documents, or the engine has not told."""


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """One step of a generation."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    """None until the last delta; then ``stop`` or ``length``."""
    prefill: PrefillStats | None = None
    """Set on the first delta, and once more on the last if more is known then."""
    logprobs: tuple[TokenLogprob, ...] = ()


# --- routes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker as the router sees it at one moment."""

    worker: WorkerId
    residency: Residency
    queue_s: float
    """Predicted seconds until the worker could begin this prefill."""
    running: int
    profile: ProfileGrid
    accepting: bool = True
    """False if the worker has as many open requests as it may."""
    host_tokens_per_s: float = 0.0
    """See ``WorkerLoad``. 0 if it is not known: then loading counts as free."""
    disk_tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    worker: WorkerId
    predicted_s: float
    """Predicted seconds from now to the first token (queue, load and prefill)."""
    predicted_cached_tokens: int
    queue_s: float = 0.0
    load_s: float = 0.0
    """From slower tiers to the device."""
    prefill_s: float = 0.0
    considered: Mapping[WorkerId, float] = field(default_factory=dict)
    """Predicted seconds of every worker that was considered, for logs and tests."""
