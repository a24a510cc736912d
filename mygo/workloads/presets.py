"""Recipes after published workloads, each with its source and the figures that it must meet.

What a source does not publish is our assumption; the comments say so. ``targets`` holds published figures
under the names of ``statistics.measures``, and under ``law.top_shares.*`` those about a corpus that is
larger than any trace (see ``topics.top_shares_by_law``).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mygo.errors import BadTrace
from mygo.workloads.arrivals import Arrivals
from mygo.workloads.cut import scaled
from mygo.workloads.generate import generate
from mygo.workloads.lengths import Lengths
from mygo.workloads.recipe import Recipe, Sessions
from mygo.workloads.statistics import TOP_SHARES, describe, measures
from mygo.workloads.topics import Retrieval, Zipf, top_shares_by_law
from mygo.workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class Preset:
    recipe: Recipe
    """At full size."""
    source: str
    targets: Mapping[str, float] = field(default_factory=dict)

    def trace(
        self,
        seed: int,
        *,
        requests: int | None = None,
        rate_per_s: float | None = None,
        token_scale: float = 1.0,
        output_scale: float = 1.0,
    ) -> Trace:
        """A trace of this workload, cut and scaled (see ``cut.scaled``) so that the machine can serve it.

        Fewer requests repeat less: ``targets`` hold at full size. Raises BadTrace for a figure out of range.
        """
        recipe = self.recipe if requests is None else replace(self.recipe, requests=requests)
        return scaled(
            generate(recipe, seed),
            rate_per_s=rate_per_s,
            token_scale=token_scale,
            output_scale=output_scale,
        )

    def measured(self, trace: Trace) -> dict[str, float]:
        """What ``targets`` are compared with, and all other figures of a ``trace`` of this preset."""
        found = measures(describe(trace))
        if any(name.startswith("law.") for name in self.targets):
            law = top_shares_by_law(self.recipe.retrieval, trace.seed or 0, TOP_SHARES)
            found.update({f"law.top_shares.{share:.0%}": value for share, value in law.items()})
        return found


def preset(name: str) -> Preset:
    """Raises BadTrace that names the nearest one if there is none of this name."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PRESETS)}"
    raise BadTrace(f"{name}: no such preset; {hint}")


_RAGCACHE_SOURCE = (
    "RAGCache (arXiv 2404.12457): 300,000 Wikipedia pages of 3,718 tokens on average, top 2, Poisson arrivals"
)
_RAGCACHE = Recipe(
    name="ragcache-mmlu",
    requests=3_600,
    retrieval=Retrieval(
        corpus_documents=300_000,
        topics=100_000,
        documents=2,
        candidates=5,
        topic_law=Zipf(0.91),
        swap_probability=0.3,
        replace_probability=0.3,
    ),
    arrivals=Arrivals(rate_per_s=1.0),
    # The spread is not published; pages are cut at what a context of 32,768 tokens leaves for two.
    document=Lengths(3_718, log_sigma=0.6, most_tokens=16_000),
    question=Lengths(80, log_sigma=0.5),
    output=Lengths(1),
    system_tokens=32,
)

_RAGPULSE = Recipe(
    name="ragpulse",
    requests=7_106,
    retrieval=Retrieval(
        corpus_documents=8_302,
        topics=3_000,
        documents=6,
        candidates=9,
        topic_law=Zipf(0.8),
        document_law=Zipf(1.6, offset=200),
        swap_probability=0.3,
        replace_probability=0.45,
        replace_documents=4,
    ),
    arrivals=Arrivals(rate_per_s=7_106 / (168 * 3_600), cv=1.7, peak_factor=2.6),
    # The corpus' mean is 241 tokens (p90 337), but what is retrieved is longer.
    document=Lengths.with_p90(267, 362, most_tokens=512),
    # The volatile part of its system prompt, and a few words of the user's.
    question=Lengths(893, log_sigma=0.15),
    output=Lengths(283, log_sigma=0.62, most_tokens=2_200),
    system_tokens=512,
    no_documents_probability=0.206,
    sessions=Sessions(mean_turns=1.78, turn=Lengths(375, log_sigma=0.7), same_topic_probability=0.0),
)

PRESETS: dict[str, Preset] = {
    "ragcache-mmlu": Preset(
        _RAGCACHE,
        f"{_RAGCACHE_SOURCE}; MMLU: 1 output token, 3 % of the documents get 60 % (taken of accesses)",
        {"law.top_shares.3%": 0.60, "document.mean": 3_718, "output.mean": 1, "interarrival_cv": 1.0},
    ),
    "ragcache-nq": Preset(
        replace(
            _RAGCACHE,
            name="ragcache-nq",
            # Natural Questions is skewed less than MMLU; by how much is not published as a figure.
            retrieval=replace(_RAGCACHE.retrieval, topic_law=Zipf(0.8)),
            question=Lengths(12, log_sigma=0.3),
            output=Lengths(6, log_sigma=0.8, most_tokens=64),
        ),
        f"{_RAGCACHE_SOURCE}; Natural Questions: 6 output tokens on average, 99 % at most 32",
        {"document.mean": 3_718, "output.mean": 6, "output.p99": 32, "interarrival_cv": 1.0},
    ),
    "ragpulse": Preset(
        _RAGPULSE,
        "RAGPulse (flashserve/RAGPulse): a week of campus question answering, under a stable template",
        {
            "chunk_hit": 0.902,
            "chunk_hit_tokens": 0.907,
            "distinct_sets": 0.831,
            "ordered_prefix_hit": 0.287,
            "top_shares.1%": 0.314,
            "top_shares.3%": 0.526,
            "top_shares.5%": 0.644,
            "top_shares.10%": 0.798,
            "distinct_documents": 3_235,
            "accesses": 33_255,
            "interarrival_cv": 3.06,
            "peak_factor": 3.45,
            "prompt.mean": 2_944,
            "prompt.p50": 3_139,
            "prompt.p99": 5_438,
            "output.mean": 283,
            "output.p50": 234,
            "document.mean": 267,
            "document.p90": 362,
            "token_shares.documents": 0.424,
            "token_shares.history": 0.091,
            "sessions": 3_990,
        },
    ),
    "cachecraft": Preset(
        Recipe(
            name="cachecraft",
            requests=3_000,
            # The corpus' size is not published.
            retrieval=Retrieval(
                corpus_documents=10_000,
                topics=8_000,
                documents=5,
                candidates=8,
                topic_law=Zipf(0.75),
                document_law=Zipf(0.92, offset=4),
                swap_probability=0.4,
                replace_probability=0.4,
                replace_documents=4,
            ),
            arrivals=Arrivals(rate_per_s=1.0),
            document=Lengths(512),
            question=Lengths(60, log_sigma=0.5),
            output=Lengths(200, log_sigma=0.5),
            system_tokens=600,
            sessions=Sessions(mean_turns=2.0, turn=Lengths(400, log_sigma=0.8), same_topic_probability=0.05),
        ),
        "Cache-Craft (arXiv 2502.15734), Sys-X: 5 chunks of 512 tokens; 75 % of retrieved chunks come again, "
        "8 to 10 % of requests find all five in one earlier request, a prefix cache computes 80 to 95 %",
        {
            "chunk_hit": 0.75,
            "distinct_sets": 0.91,
            "ordered_prefix_hit": 0.125,
            "law.top_shares.5%": 0.60,
            "prompt.p50": 3_300,
        },
    ),
    "pcr": Preset(
        Recipe(
            name="pcr",
            requests=1_000,
            retrieval=Retrieval(
                corpus_documents=100_000,
                topics=1_300,
                documents=2,
                candidates=5,
                topic_law=Zipf(0.7),
                swap_probability=0.3,
                replace_probability=0.3,
            ),
            arrivals=Arrivals(rate_per_s=0.8),
            document=Lengths(3_360, log_sigma=0.5, most_tokens=12_000),
            question=Lengths(16, log_sigma=0.3),
            output=Lengths(16),
            system_tokens=64,
        ),
        "PCR, workload 1: Wikipedia, SQuAD questions, top 2, 1,000 inputs of about 6,800 tokens, of which "
        "40 % are reuse, 16 output tokens, Poisson arrivals of 0.5 to 1.0 a second",
        {"chunk_hit_tokens": 0.40, "prompt.mean": 6_800, "output.mean": 16, "interarrival_cv": 1.0},
    ),
    "burst": Preset(
        replace(
            _RAGPULSE,
            name="burst",
            requests=2_000,
            arrivals=Arrivals(rate_per_s=1.0, cv=3.0, burst_probability=0.1, burst_requests=4),
            question=Lengths(30, log_sigma=0.5),
            no_documents_probability=0.0,
            sessions=None,
        ),
        "A stress of ours: RAGPulse's documents; gaps with a coefficient of variation of 3, and one arrival "
        "in ten brings three siblings with the same documents within 50 ms",
    ),
}
