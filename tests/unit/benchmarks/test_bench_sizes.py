"""Sizes of a run that follow from its trace."""

from __future__ import annotations

import argparse

from benchmarks.__main__ import TEMPLATE_TOKENS, _share_of_working_set
from mygo.simulation.working_set import working_set_tokens
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest


def _trace(documents: int, tokens: int) -> Trace:
    """Each request asks about one document of its own."""
    texts = {TextId(str(n)): Text(tokens) for n in range(documents)} | {TextId("s"): Text(10)}
    requests = (TraceRequest(n, float(n), TextId("s"), (TextId(str(n)),), 5, 3) for n in range(documents))
    return Trace("tiny", texts, tuple(requests))


def _sizes(trace: Trace, share: float) -> tuple[int, int]:
    options = argparse.Namespace(kv_share=share, output_tokens=8)
    _share_of_working_set(options, trace)
    return options.kv_tokens, options.host_kv_tokens


def test_tiers_are_shares_of_the_working_set() -> None:
    trace = _trace(documents=200, tokens=100)
    assert working_set_tokens(trace) == 20_010
    assert _sizes(trace, 0.05) == (1_000, 2_001)


def test_device_holds_two_of_the_largest_prompts_when_its_share_is_less() -> None:
    trace = _trace(documents=10, tokens=100)
    assert _sizes(trace, 0.05) == (2 * (10 + 100 + 5 + TEMPLATE_TOKENS + 8), 101)
