"""One strict, frozen tree of settings. ``load(path)`` is the only way in.

An unknown key is an error that names itself and its nearest neighbour. Every key, its default and
its meaning stand here once; ``configs/laptop.yaml`` shows them in use.
"""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator

from mygo import config_file
from mygo.config_retrieval import RetrievalConfig
from mygo.config_section import Section, Source, without_bare_variable
from mygo.errors import ConfigError


def _folder(value: Path) -> Path:
    return Path(without_bare_variable(str(value))).expanduser().absolute()


Folder = Annotated[Path, AfterValidator(_folder)]
"""Absolute; `~` is the home folder."""
Bytes = Annotated[int, Field(gt=0)]
LEAST_SHARE_BYTES = 2**24
"""What each side of `reuse.chunk_share` needs: a block of 32 tokens at half a MiB per token, which few models
exceed."""
_MOVED = {
    "reuse.host_bytes": "documents' KV lies in cache.host_bytes now; set reuse.chunk_share, its part of that",
    "reuse.disk_bytes": "documents' KV lies in cache.disk_bytes now; set reuse.chunk_share, its part of that",
}
"""Keys that there were once, and what to write instead."""


class ClusterConfig(Section):
    name: str = Field(default="mygo", pattern=r"^[a-z][a-z0-9-]*$")
    """Names the Ray Serve application and the state file of `mygo up`."""
    ray_address: str | None = None
    """None starts Ray on this machine; `auto` joins the cluster that `ray up` made."""
    data_dir: Folder = Path("~/.local/share/mygo")
    """Journal, uploaded files, index snapshots, secret. Back this up."""
    cache_dir: Folder = Path("~/.cache/mygo")
    """Converted models and measured profiles. Can be deleted at any time."""
    haproxy: bool = False
    """Serve HTTP through Ray's HAProxy instead of its Python proxy: less CPU per token."""


class HttpConfig(Section):
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface (then set `api_keys`)."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port of HTTP."""
    api_keys: dict[str, str] = Field(default={})
    """API key -> tenant. Empty: no key is asked and everybody is tenant `default`."""
    max_body_bytes: Bytes = 64 * 2**20
    """Largest request body, uploads included."""
    max_message_chars: int = Field(default=2_000_000, gt=0)
    """Longest text of one message."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """A request that takes longer is ended."""
    ingress_replicas: int = Field(default=1, ge=1)
    """Processes that serve HTTP, build prompts and route."""

    @field_validator("api_keys")
    @classmethod
    def _tenants_are_names(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(value):
            raise ValueError("a key is empty, so that everybody would be its tenant")
        for tenant in value.values():
            # sharing domains are built of tenants' names: `public` and `a+b` mean something else
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tenant) or tenant == "public":
                raise ValueError(
                    f"tenant {tenant!r}: use letters, digits, '.', '_' and '-', and not the word public"
                )
        return value


class ModelConfig(Section):
    source: Source = "demo:smollm2-135m-instruct"
    """`demo:...` (from a package), a Hugging Face id, or a local path."""
    name: str = "smollm2-135m-instruct"
    """The `model` that clients ask for."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Type of weights, activations and KV."""
    max_context_tokens: int = Field(default=8192, ge=256)
    """Prompt and answer together; at most what the model was made for."""
    kv_cache_bytes: Bytes = 2**30
    """Device KV per worker. On CUDA it is taken from the GPU's memory."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Devices per worker that share the weights."""
    block_tokens: int = Field(default=32, ge=1)
    """vLLM's block size. On CPU a multiple of 32."""
    step_tokens: int = Field(default=160, ge=64)
    """Most tokens per engine step. Small steps let short requests and aborts through on a CPU."""
    long_prefill_tokens: int = Field(default=128, ge=0)
    """Most tokens of one long prefill per step; 0 for no such limit."""
    max_running: int = Field(default=32, ge=1)
    """Requests that the engine computes at once."""
    enforce_eager: bool = True
    """True skips compilation: minutes faster to start, some per cent slower to run on CPU."""
    engine: dict[str, Any] = Field(default={})
    """Further vLLM engine arguments, passed on as they are."""


class CacheConfig(Section):
    """Where documents' KV lies besides the device, and who decides what stays. Sizes are per worker."""

    host_bytes: int = Field(default=2**30, ge=0)
    """Host memory, filled at start and taken from /dev/shm; 0 for no tier but the device."""
    disk_path: Folder | None = None
    """Folder of the disk tier, on a local drive; its KV survives restarts and is user data. None for none.
    Workers of one machine may share it: each takes a folder of its own inside."""
    disk_bytes: Bytes = 16 * 2**30
    """Most that a worker keeps in `disk_path`."""
    policy: Literal["lru", "lfu", "gdsf", "arc", "s3fifo", "pgdsf", "forecast"] = "forecast"
    """Who leaves host memory and disk first. `forecast`: what will save the fewest prefill seconds."""
    device_policy: Literal["vllm", "lru", "lfu", "gdsf", "arc", "s3fifo", "pgdsf", "forecast"] = "vllm"
    """Who leaves the device first; `vllm`: its own order, least recently used."""
    lookahead_share: float = Field(default=0.2, ge=0, le=1)
    """Share of a tier that waiting requests may protect from eviction; 0 for none."""
    prefetch: bool = True
    """Read from disk what waiting requests need before their turn, if that harms nobody."""
    load_gate: bool = True
    """Compute what is predicted to be computed sooner than loaded."""
    layerwise: bool = True
    """Let copies from host memory run beside the computation, layer by layer: those of prefixes where that is
    predicted to be sooner, those of chunks always."""
    admission: Literal["due", "ratio"] = "due"
    """Which waiting request a worker admits next. `due`: the one that is due first: when it came plus five
    times what it takes with what is cached; `ratio`: the one of which most is cached, as in RAGCache."""
    admission_window: int = Field(default=32, ge=0)
    """How often a waiting request may be overtaken; 0: first come, first served."""
    protect_short: bool = True
    """Where `model.long_prefill_tokens` bounds a long prompt's part of an engine step: make that still less
    while a prompt that takes a fraction of its time waits beside it."""
    host_load_s_per_byte: float = Field(default=0.0, ge=0)
    """For measurements: slow copies from host memory down to this."""
    disk_read_s_per_byte: float = Field(default=0.0, ge=0)
    """For measurements: slow reads from disk down to this."""

    @model_validator(mode="after")
    def _disk_has_host(self) -> CacheConfig:
        if self.disk_path is not None and not self.host_bytes:
            raise ValueError("disk_path: what lies on disk passes through host memory: set host_bytes, too")
        return self


class ReuseConfig(Section):
    """Reuse of documents' KV behind other text than it was computed behind."""

    mode: Literal["exact", "blend"] = "exact"
    """The most that is allowed. `exact`: answers are what they would be without any cache. `blend`: a
    document's KV is also reused behind other documents, and part of it computed anew: an approximation,
    which answers are labelled with. Until comparisons have proven it good enough, answers are exact all the
    same. Stores and requests may ask for `exact`."""
    chunk_share: float = Field(default=0.5, gt=0, le=1)
    """Under `blend`: part of `cache.host_bytes` and `cache.disk_bytes` that documents' own KV gets; that of
    whole prompts keeps the rest: none, or 16 MiB at least, as documents get. What suits a load is seen by
    `python -m benchmarks.blend --chunk-share`."""
    repair_share: float = Field(default=0.15, ge=0, le=1)
    """Under `blend`: part of a document that is computed anew where nothing before it is as it was.
    `mygo calibrate` finds the least that keeps answers good."""
    floor_tokens: int = Field(default=16, ge=0)
    """Under `blend`: at least so many of a document's first tokens are computed anew."""
    method: Literal["first_tokens", "spread", "deviation"] = "first_tokens"
    """Under `blend`: which tokens of a document are computed anew, besides those. `first_tokens`: the ones
    that follow. `spread`: evenly spaced ones. `deviation`: those whose values are farthest apart in two
    copies of the document from different prompts; until there are two, the ones that follow. Only prompts
    that compute a document leave copies of it, so one that is blended from its second use on stays with one.
    `mygo calibrate` compares methods, with two copies of each document."""
    fillers: bool = False
    """Under `blend`: compute documents behind neutral ones while a worker has nothing else to do, if they
    were used twice and no prompt has left a copy of them that all their readers may use. It pays where
    prompts mix documents of different readers."""
    kl_bound: float = Field(default=0.12, gt=0, lt=1)
    """Under `blend`: how far the first token's distribution may be from the exact one on average, as KL
    divergence in nats. Blending that breaks it is repaired more, and then switched off."""


class EmbedderConfig(Section):
    source: Source = "demo:all-minilm-l6-v2"
    """As `model.source`: a sentence-transformers model. Changing it embeds the corpus anew."""
    batch: int = Field(default=32, ge=1)
    """Texts embedded in one step."""


class WorkersConfig(Section):
    replicas: int = Field(default=2, ge=1)
    """Workers, each with an engine and a KV cache of its own."""
    device: Literal["cpu", "cuda", "emulated"] = "cpu"
    """What the engines compute on; on `cpu` workers share out the cores. `emulated` engines compute
    nothing and answer nothing sensible: they take the time of `emulated_profile`, for load tests."""
    emulated_profile: Source = "llama-3-8b-h100"
    """On `emulated`: a shipped engine profile, or the path of a JSON file."""
    emulated_time_scale: float = Field(default=1.0, gt=0)
    """On `emulated`: wall seconds per second of the profile. More lets a core carry more workers."""
    cores: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """CPU cores that the engines of a machine share out on `cpu`; empty for all that there are."""
    max_ongoing: int = Field(default=64, ge=1)
    """Requests that one worker accepts before the router passes it by."""
    start_timeout_s: float = Field(default=900.0, gt=0)
    """How long a worker may take to load its model and be measured."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """A worker whose engine has requests and takes no step for this long is replaced. Many times what a
    step takes: on a CPU that may be seconds."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What every answer must say of the workers that gave it."""
        if self.device != "emulated":
            return ()
        scale = f"time x{self.emulated_time_scale:g}"
        return (f"the engines are emulated ({self.emulated_profile}, {scale}): the text is no answer",)


class CorpusConfig(Section):
    chunk_tokens: int = Field(default=240, ge=16)
    """Chunk size in tokens of the served model."""
    overlap_tokens: int = Field(default=0, ge=0)
    """Tokens that a chunk repeats of the one before it."""
    max_file_bytes: Bytes = 32 * 2**20
    """Largest file that is accepted."""
    parse_timeout_s: float = Field(default=60.0, gt=0)
    """A file that takes longer to be parsed and split fails, and holds up no other."""


class PromptConfig(Section):
    system: str = (
        "You answer questions using only the documents below. "
        "If they do not contain the answer, say that you do not know."
    )
    """System prompt of requests that bring none."""
    after_documents: str = (
        "The documents end here. The conversation with the user follows. "
        "Answer its last question from the documents above, in your own words."
    )
    """Closes the documents. At least a block (32 tokens) of fixed text here keeps the block in which
    the last document ends out of the question, so that it is cached too."""
    document_order: Literal["retrieval", "cache"] = "retrieval"
    """`retrieval`: as ranked. `cache`: down the cached tree first. A request may choose."""
    default_max_tokens: int = Field(default=256, ge=1)
    """Longest answer of requests that do not say."""
    conversations: int = Field(default=2_000, ge=0)
    """Earlier answers that are remembered as ids, so that a next turn can append."""


class RoutingConfig(Section):
    policy: Literal[
        "predicted_seconds", "round_robin", "power_of_two", "prefix_affinity", "consistent_hash"
    ] = "predicted_seconds"
    """All but the first are baselines, for comparison."""
    decode_delay_weight: float = Field(default=0.05, ge=0)
    """How much of a prefill's seconds counts again per decode that it delays."""
    recompute_weight: float = Field(default=4.0, ge=0)
    """How often a prefill's seconds count again for the cache they displace and the requests they
    delay. 0 minimises each request's own wait, and copies documents to all workers under load."""
    optimistic_ttl_s: float = Field(default=30.0, gt=0)
    """How long an announced but unconfirmed prefill counts as cached."""
    retries: int = Field(default=3, ge=0)
    """Other attempts for a request whose worker died before the first token."""
    affinity_imbalance: int = Field(default=8, ge=1)
    """`prefix_affinity`: difference in open requests from which it falls back to power of two."""
    affinity_min_match: float = Field(default=0.1, ge=0, le=1)
    """`prefix_affinity`: share of the prompt's characters below which it picks the emptiest tree."""
    affinity_tree_chars: int = Field(default=400_000, ge=1)
    """`prefix_affinity`: characters that it remembers per worker; best set to what a worker's KV holds."""


class Config(Section):
    cluster: ClusterConfig = ClusterConfig()
    http: HttpConfig = HttpConfig()
    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    reuse: ReuseConfig = ReuseConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    workers: WorkersConfig = WorkersConfig()
    corpus: CorpusConfig = CorpusConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    prompt: PromptConfig = PromptConfig()
    routing: RoutingConfig = RoutingConfig()

    @model_validator(mode="after")
    def _blend_is_computed(self) -> Config:
        if self.reuse.mode == "blend" and self.workers.device == "emulated":
            raise ValueError("reuse.mode: emulated engines cannot blend; set it to exact")
        if self.reuse.mode == "blend" and not self.cache.host_bytes:
            raise ValueError("reuse.mode: what is blended lies in host memory; set cache.host_bytes")
        return self

    @property
    def chunk_host_bytes(self) -> int:
        """What documents' own KV gets of ``cache.host_bytes``, which whole prompts keep the rest of."""
        return int(self.reuse.chunk_share * self.cache.host_bytes) if self.reuse.mode == "blend" else 0

    @property
    def chunk_disk_bytes(self) -> int:
        """The same of ``cache.disk_bytes``; 0 without a disk."""
        blends_on_disk = self.reuse.mode == "blend" and self.cache.disk_path is not None
        return int(self.reuse.chunk_share * self.cache.disk_bytes) if blends_on_disk else 0

    @model_validator(mode="after")
    def _chunks_share(self) -> Config:
        if self.reuse.mode != "blend":
            return self
        sizes = {"cache.host_bytes": (self.cache.host_bytes, self.chunk_host_bytes)}
        if self.cache.disk_path is not None:
            sizes["cache.disk_bytes"] = self.cache.disk_bytes, self.chunk_disk_bytes
        for key, (size_bytes, chunk_bytes) in sizes.items():
            kept_bytes = size_bytes - chunk_bytes
            if chunk_bytes >= LEAST_SHARE_BYTES and (kept_bytes >= LEAST_SHARE_BYTES or not kept_bytes):
                continue
            given = f"reuse.chunk_share: {self.reuse.chunk_share:g} of {key} ({size_bytes}) leaves"
            need_bytes = (2 if kept_bytes else 1) * LEAST_SHARE_BYTES
            if size_bytes < need_bytes:
                raise ValueError(f"{given} a side less than 16 MiB; raise {key} to {need_bytes}")
            least = math.ceil(1e4 * LEAST_SHARE_BYTES / size_bytes) / 1e4
            side = "documents" if chunk_bytes < LEAST_SHARE_BYTES else "prompts"
            raise ValueError(
                f"{given} {side} less than 16 MiB; set it between {least:g} and {1 - least:g}, or to 1 "
                f"(no prompts beside documents), or raise {key}"
            )
        return self

    @model_validator(mode="after")
    def _chunks_fit(self) -> Config:
        if self.corpus.chunk_tokens >= self.model.max_context_tokens:
            raise ValueError(
                f"corpus.chunk_tokens ({self.corpus.chunk_tokens}) must be smaller than "
                f"model.max_context_tokens ({self.model.max_context_tokens})"
            )
        return self


def load(path: Path | None = None) -> Config:
    """Read a YAML file; None gives the defaults. ``${NAME}`` in it is taken from the environment.

    Raises ConfigError that names the file, the key and what to do.
    """
    return Config() if path is None else parse(config_file.read(path), origin=str(path))


def parse(data: dict[str, Any], *, origin: str = "config") -> Config:
    """Validate a nested mapping; raises ConfigError with one line per problem."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"{origin}: {_explain(problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden" and key in _MOVED:
        return f"{key}: {_MOVED[key]}"
    if problem["type"] == "extra_forbidden":
        section = _section_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), section, n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(section)}"
        return f"{key}: unknown key, {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "model_type":
        message = f"is a section, with keys of its own under it: {', '.join(_section_at(problem['loc']))}"
    return f"{key}: {message} (got {problem['input']!r})" if key else message


def _section_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
