"""What a trace is like: how much of it repeats, in what order, how skewed it is, and how it arrives.

Every cache here is unbounded and shared by all workers, so these are bounds on what any cache can do with
the trace, not forecasts. A text counts by its id: a copy in another domain, or new content after an
update, is another text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from statistics import fmean, pstdev

from mygo.errors import BadTrace
from mygo.workloads.trace import Text, TextId, Trace

TOP_SHARES = (0.01, 0.03, 0.05, 0.10)
_DAY_S = 86_400.0
_PEAK_BIN_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """A distribution of token counts; percentiles by nearest rank. All 0 if nothing was counted."""

    mean: float
    p50: int
    p90: int
    p99: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Shares and ratios are between 0 and 1; those of nothing (no documents, no gaps) are 0."""

    requests: int
    requests_with_documents: int
    duration_s: float
    mean_rate_per_s: float
    """Requests over duration; 0 if all come at once."""
    interarrival_cv: float
    """Standard deviation of the gaps over their mean."""
    peak_factor: float | None
    """Requests in the busiest hour over the mean hour's; None for less than a day."""

    prompt: Tokens
    output: Tokens
    document: Tokens
    """By access."""
    token_shares: tuple[tuple[str, float], ...]
    """Of all prompt tokens: ``system``, ``documents``, ``history``, ``question``."""

    accesses: int
    """Documents over all requests."""
    distinct_documents: int
    corpus_documents: int
    """What ``top_shares`` are shares of: the corpus, or the distinct documents if it is not known."""
    working_set_tokens: int
    """Of the distinct documents that were asked for."""
    top_shares: tuple[tuple[float, float], ...]
    """(share x of the corpus, share of accesses that go to the x most accessed documents)."""

    chunk_hit: float
    """Accesses to a document that was accessed before."""
    chunk_hit_tokens: float
    """The same by tokens."""
    distinct_sets: float
    """Distinct sets of documents over requests with documents."""
    ordered_prefix_hit: float
    """Document tokens that lie in a run of leading documents that an earlier request began with too, in
    retrieval order. The documents alone: as if one system prompt stood before all."""
    prompt_prefix_hit: float
    """The same over all prompt tokens, system text first and history behind the documents."""
    prompt_reuse_bound: float
    """Prompt tokens in texts seen before, wherever they stand: the bound for position-independent reuse."""
    sessions: int
    """Conversations; a request without one counts as one."""


def describe(trace: Trace) -> Statistics:
    """The statistics of ``trace``. Raises BadTrace if it has no requests."""
    requests, texts = trace.requests, trace.texts
    if not requests:
        raise BadTrace(f"{trace.name}: has no requests, so there is nothing to describe")
    with_documents = [each for each in requests if each.documents]
    counts = Counter(name for each in requests for name in each.documents)
    accesses = counts.total()
    lengths = [texts[name].tokens for each in requests for name in each.documents]
    working_set_tokens = sum(texts[name].tokens for name in counts)
    corpus_documents = trace.corpus_documents or len(counts)
    parts = _tokens_by_part(trace)
    prompt_tokens = sum(parts.values())
    gaps = [later.arrival_s - earlier.arrival_s for earlier, later in pairwise(requests)]
    sessions = {each.session for each in requests if each.session is not None}
    prompts = [(each.system, *each.documents, *each.history) for each in requests]
    return Statistics(
        requests=len(requests),
        requests_with_documents=len(with_documents),
        duration_s=trace.duration_s,
        mean_rate_per_s=_ratio(len(requests), trace.duration_s),
        interarrival_cv=_ratio(pstdev(gaps), fmean(gaps)) if gaps else 0.0,
        peak_factor=_peak_factor(trace),
        prompt=_distribution([trace.prompt_tokens(each) for each in requests]),
        output=_distribution([each.output_tokens for each in requests]),
        document=_distribution(lengths),
        token_shares=tuple((part, _ratio(tokens, prompt_tokens)) for part, tokens in parts.items()),
        accesses=accesses,
        distinct_documents=len(counts),
        corpus_documents=corpus_documents,
        working_set_tokens=working_set_tokens,
        top_shares=_top_shares(counts, corpus_documents),
        chunk_hit=_ratio(accesses - len(counts), accesses),
        chunk_hit_tokens=_ratio(sum(lengths) - working_set_tokens, sum(lengths)),
        distinct_sets=_ratio(
            len({frozenset(each.documents) for each in with_documents}), len(with_documents)
        ),
        ordered_prefix_hit=_ratio(
            _prefix_hit_tokens((each.documents for each in requests), texts), sum(lengths)
        ),
        prompt_prefix_hit=_ratio(_prefix_hit_tokens(prompts, texts), prompt_tokens),
        prompt_reuse_bound=_ratio(_seen_tokens(prompts, texts), prompt_tokens),
        sessions=len(sessions) + sum(each.session is None for each in requests),
    )


def measures(statistics: Statistics) -> dict[str, float]:
    """Every figure under a dotted name (``prompt.p50``, ``top_shares.3%``), for tables and JSON; unknown
    ones are left out."""
    found: dict[str, float] = {}
    for each in fields(statistics):
        match getattr(statistics, each.name):
            case Tokens() as tokens:
                found.update({f"{each.name}.{name}": figure for name, figure in asdict(tokens).items()})
            case tuple() as shares:
                found.update({f"{each.name}.{_key(key)}": figure for key, figure in shares})
            case None:
                pass
            case figure:
                found[each.name] = figure
    return found


def _key(key: str | float) -> str:
    return key if isinstance(key, str) else f"{key:.0%}"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _tokens_by_part(trace: Trace) -> dict[str, int]:
    def tokens(names: Iterable[TextId]) -> int:
        return sum(trace.texts[name].tokens for name in names)

    requests = trace.requests
    return {
        "system": tokens(each.system for each in requests),
        "documents": tokens(name for each in requests for name in each.documents),
        "history": tokens(name for each in requests for name in each.history),
        "question": sum(each.question_tokens for each in requests),
    }


def _peak_factor(trace: Trace) -> float | None:
    if trace.duration_s < _DAY_S:
        return None
    per_bin = Counter(int(each.arrival_s // _PEAK_BIN_S) for each in trace.requests)
    return max(per_bin.values()) / (len(trace.requests) / (trace.duration_s / _PEAK_BIN_S))


def _distribution(values: Sequence[int]) -> Tokens:
    if not values:
        return Tokens(0.0, 0, 0, 0)
    ranked = sorted(values)
    p50, p90, p99 = (ranked[math.ceil(share * len(ranked)) - 1] for share in (0.50, 0.90, 0.99))
    return Tokens(fmean(ranked), p50, p90, p99)


def _top_shares(counts: Counter[TextId], corpus_documents: int) -> tuple[tuple[float, float], ...]:
    ranked = sorted(counts.values(), reverse=True)
    return tuple(
        (share, _ratio(sum(ranked[: round(corpus_documents * share)]), counts.total()))
        for share in TOP_SHARES
    )


def _prefix_hit_tokens(paths: Iterable[Sequence[TextId]], texts: Mapping[TextId, Text]) -> int:
    """Tokens of the texts that continue a path which an earlier one took, summed over ``paths``."""
    nodes: dict[tuple[int, TextId], int] = {}
    hit_tokens = 0
    for path in paths:
        node = 0
        for name in path:
            step = (node, name)
            if step in nodes:
                hit_tokens += texts[name].tokens
            node = nodes.setdefault(step, len(nodes) + 1)
    return hit_tokens


def _seen_tokens(prompts: Iterable[Sequence[TextId]], texts: Mapping[TextId, Text]) -> int:
    """Tokens of the texts that came before, in the same prompt or an earlier one."""
    seen: set[TextId] = set()
    hit_tokens = 0
    for name in (name for prompt in prompts for name in prompt):
        if name in seen:
            hit_tokens += texts[name].tokens
        seen.add(name)
    return hit_tokens
