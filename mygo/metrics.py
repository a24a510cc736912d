"""Every metric: name, kind, labels, help. Names carry their unit, after Prometheus's conventions.

This room only declares; ``mygo/serve/instruments.py`` creates them, so pure rooms stay pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS = Metric(
    "mygo_requests",
    Kind.COUNTER,
    "Answers asked for, by how they ended (finished, abandoned, cut, refused, failed).",
    ("outcome",),
)
TTFT_S = Metric(
    "mygo_time_to_first_token_seconds", Kind.HISTOGRAM, "From the request's arrival to its first token.",
    buckets=SECONDS,
)  # fmt: skip
RETRIEVAL_S = Metric(
    "mygo_retrieval_seconds",
    Kind.HISTOGRAM,
    "Embedding the question, searching and merging.",
    buckets=SECONDS,
)
PROVISIONAL_RESULTS = Metric(
    "mygo_provisional_results",
    Kind.COUNTER,
    "Results before the final one, by stage and whether no later one named other documents.",
    ("stage", "final"),
)
SPECULATIONS = Metric(
    "mygo_speculations", Kind.COUNTER, "Prefills that began for documents that retrieval had not confirmed."
)
SPECULATED_ANSWERS = Metric(
    "mygo_speculated_answers",
    Kind.COUNTER,
    "Answers with retrieval by what became of such prefills (none, adopted, wrong, failed).",
    ("outcome",),
)
RETRIEVAL_HIDDEN_S = Metric(
    "mygo_retrieval_hidden_seconds", Kind.COUNTER, "Retrieval that adopted prefills ran beside."
)
SPECULATION_WASTED_S = Metric(
    "mygo_speculation_wasted_seconds",
    Kind.COUNTER,
    "Prefill and decoding for documents that turned out to be others, less what their answers could reuse.",
)
QUEUE_S = Metric(
    "mygo_queue_seconds", Kind.HISTOGRAM, "In the engine's queue before prefill began.", buckets=SECONDS
)
PREFILL_S = Metric(
    "mygo_prefill_seconds", Kind.HISTOGRAM, "From the start of prefill to the first token.", buckets=SECONDS
)
PROMPT_TOKENS = Metric(
    "mygo_prompt_tokens",
    Kind.COUNTER,
    "Prompt tokens by where their KV came from (device, host, disk, computed).",
    ("source",),
)
PREDICTED_CACHED_TOKENS = Metric(
    "mygo_predicted_cached_tokens",
    Kind.COUNTER,
    "Cached tokens that routing predicted. Far above the device, host and disk tokens of "
    "mygo_prompt_tokens means that the directory promises hits which the engines do not see.",
)
RETRIES = Metric("mygo_retries", Kind.COUNTER, "Requests sent to another worker because theirs was lost.")
DEGRADED = Metric("mygo_degraded_answers", Kind.COUNTER, "Answers given without some retrieval shard.")
WORKER_QUEUED_TOKENS = Metric(
    "mygo_worker_queued_tokens", Kind.GAUGE, "Prompt tokens that a worker has yet to compute.", ("worker",)
)
WORKER_RUNNING = Metric("mygo_worker_running_requests", Kind.GAUGE, "Requests in the engine.", ("worker",))
WORKER_WAITING = Metric("mygo_worker_waiting_requests", Kind.GAUGE, "Requests in its queue.", ("worker",))

# --- the tiers of a worker; what is counted: mygo/vllm_plugin/tiers/counters.py ------------------

TIER_HIT_TOKENS = Metric(
    "mygo_tier_hit_tokens",
    Kind.COUNTER,
    "Cached prompt tokens of admitted requests, by the tier that they came from.",
    ("worker", "tier"),
)
UNCACHED_TOKENS = Metric(
    "mygo_uncached_tokens",
    Kind.COUNTER,
    "Computed prompt tokens by reason (never_seen, evicted, not_worth_loading, not_loadable, prompt_end).",
    ("worker", "reason"),
)
EVICTED_TOKENS = Metric(
    "mygo_tier_evicted_tokens",
    Kind.COUNTER,
    "Tokens that left a tier to make room, whether or not another tier has them still.",
    ("worker", "tier"),
)
REGRETTED_TOKENS = Metric(
    "mygo_tier_regretted_tokens",
    Kind.COUNTER,
    "Tokens that were computed within 60 s after they left the tier.",
    ("worker", "tier"),
)
EVICTED_WHILE_QUEUED_TOKENS = Metric(
    "mygo_evicted_while_queued_tokens",
    Kind.COUNTER,
    "Tokens that some tier held when their request came, and none when it was admitted.",
    ("worker",),
)
PREFETCHED_TOKENS = Metric(
    "mygo_prefetched_tokens",
    Kind.COUNTER,
    "Tokens read from disk for waiting requests, by what became of them (used, wasted).",
    ("worker", "outcome"),
)
LOADED_BYTES = Metric(
    "mygo_loaded_bytes",
    Kind.COUNTER,
    "KV bytes brought to the next faster tier, by the tier that they came from.",
    ("worker", "tier"),
)
LOAD_S = Metric(
    "mygo_load_seconds",
    Kind.COUNTER,
    "Seconds in which the link from a tier to the next faster one was busy.",
    ("worker", "tier"),
)
REFUSED_LOADS = Metric(
    "mygo_refused_loads",
    Kind.COUNTER,
    "Requests that computed what a slower tier held, as that was predicted to be sooner.",
    ("worker",),
)
DISK_TROUBLE = Metric(
    "mygo_disk_trouble",
    Kind.COUNTER,
    "Chunks of KV that the disk tier lost or did not take, by why (damaged, missing, read_error, "
    "write_error, dropped_write).",
    ("worker", "kind"),
)
TIER_HELD_TOKENS = Metric(
    "mygo_tier_held_tokens", Kind.GAUGE, "Tokens whose KV a tier holds.", ("worker", "tier")
)
TIER_CAPACITY_TOKENS = Metric(
    "mygo_tier_capacity_tokens", Kind.GAUGE, "Tokens whose KV a tier has room for.", ("worker", "tier")
)

# --- the quality guard of a worker; what is counted: mygo/vllm_plugin/chunks/quality_view.py ------

GUARD_DECISIONS = Metric(
    "mygo_guard_decisions",
    Kind.COUNTER,
    "Requests that could reuse documents inexactly, by how they were answered (exact; shadow: exactly, and "
    "compared; blend; check: blended, and compared).",
    ("worker", "action"),
)
GUARD_OBSERVATIONS = Metric(
    "mygo_guard_observations", Kind.COUNTER, "Comparisons that the quality guard has judged.", ("worker",)
)
GUARD_MEAN_KL = Metric(
    "mygo_guard_mean_kl_nats",
    Kind.GAUGE,
    "Mean KL of the first token, exact against blended, of what is served in a bucket, or else tried.",
    ("worker", "bucket"),
)
GUARD_STATE = Metric(
    "mygo_guard_state",
    Kind.GAUGE,
    "Of a bucket: 2 proven (blended), 1 unproven (exact, and compared aside), 0 off (exact).",
    ("worker", "bucket"),
)
GUARD_ALPHA = Metric(
    "mygo_guard_alpha",
    Kind.GAUGE,
    "Repair share of what is served in a bucket, or else tried; 1 if blending is off.",
    ("worker", "bucket"),
)
GUARD_DOCUMENTS_OFF = Metric(
    "mygo_guard_documents_off", Kind.GAUGE, "Passages that are not reused any more.", ("worker",)
)
COMPARISONS = Metric(
    "mygo_guard_comparisons",
    Kind.COUNTER,
    "Comparisons that the quality guard asked for, by what became of them (compared, dropped, void, failed).",
    ("worker", "outcome"),
)
COMPARISON_TOKENS = Metric(
    "mygo_guard_computed_tokens",
    Kind.COUNTER,
    "Prompt tokens that were computed for comparisons; no user metric has them.",
    ("worker",),
)

FILLERS = Metric(
    "mygo_fillers",
    Kind.COUNTER,
    "Documents to be computed behind neutral ones while a worker is idle, by what became of them (captured, "
    "interrupted, failed).",
    ("worker", "outcome"),
)
FILLER_COMPUTED_TOKENS = Metric(
    "mygo_filler_computed_tokens",
    Kind.COUNTER,
    "Prompt tokens that were computed for that; no user metric has them.",
    ("worker",),
)
FILLER_USED_TOKENS = Metric(
    "mygo_filler_used_tokens",
    Kind.COUNTER,
    "Tokens of documents that came from copies behind neutral ones.",
    ("worker",),
)

JOURNAL_POSITION = Metric("mygo_journal_position", Kind.GAUGE, "Last entry of the corpus journal.")
SEARCHABLE_POSITION = Metric(
    "mygo_searchable_position", Kind.GAUGE, "Last journal entry that every live shard has applied."
)

ALL = tuple(each for each in list(globals().values()) if isinstance(each, Metric))
