"""Emulated workers behind the production routing: what a trace must see, and the same on every run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from mygo.config import RoutingConfig
from mygo.emulation.profile import DecodeCost, EngineProfile
from mygo.emulation.settings import EngineSettings
from mygo.errors import ConfigError
from mygo.simulation.cluster import ClusterShape, Simulation
from mygo.simulation.outcome import summarize
from mygo.simulation.prompts import Prompts
from mygo.types import PUBLIC, DomainTag, ProfileGrid, TenantId
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest

GRID = ProfileGrid((0, 4096), (32, 1024), ((0.01, 0.32), (0.012, 0.4)))
PROFILE = EngineProfile("test", "m", "d", "made up", GRID, DecodeCost(0.01, 0.0, 0.0), 100, 1e-6, 1e-5)
ENGINE = EngineSettings(device_tokens=4096, block_tokens=32, max_context_tokens=2048, step_tokens=512)
SYSTEM = TextId("system")


def trace(
    documents: list[tuple[str, ...]], *, gap_s: float = 10.0, private: str = "", tenants: str = ""
) -> Trace:
    """One request per entry; documents of 320 tokens, those in ``private`` owned by tenant a."""
    names = {name for each in documents for name in each}
    texts = {TextId(name): Text(320, DomainTag("a") if name in private else PUBLIC) for name in sorted(names)}
    requests = tuple(
        TraceRequest(
            number,
            number * gap_s,
            SYSTEM,
            tuple(TextId(name) for name in each),
            question_tokens=40,
            output_tokens=3,
            tenant=TenantId(tenants[number] if tenants else "a"),
        )
        for number, each in enumerate(documents)
    )
    return Trace("test", {SYSTEM: Text(64), **texts}, requests)


def shape(workers: int = 2, policy: str = "predicted_seconds", **changes: object) -> ClusterShape:
    routing = RoutingConfig.model_validate({"policy": policy})
    return replace(ClusterShape(PROFILE, ENGINE, workers, routing), **changes)  # type: ignore[arg-type]


def test_simulation_hits_the_document_prefix_when_it_comes_again() -> None:
    served = Simulation(shape(), trace([("x", "y"), ("x", "y"), ("x", "z")])).run()
    assert [each.cached_tokens for each in served] == [0, 704, 384]
    assert len({each.worker for each in served}) == 1
    assert [each.predicted_cached_tokens for each in served[1:]] == [704, 384]
    assert served[0].ttft_s > 2 * served[1].ttft_s


def test_simulation_of_round_robin_computes_on_both_workers_when_a_document_repeats() -> None:
    served = Simulation(shape(policy="round_robin"), trace([("x",)] * 4)).run()
    assert [each.cached_tokens for each in served] == [0, 0, 384, 384]
    assert Counter(each.worker for each in served).most_common(1)[0][1] == 2


def test_simulation_keeps_a_private_document_from_another_tenant() -> None:
    asked = [("x",), ("x",), ("x",)]
    served = Simulation(shape(1), trace(asked, private="x", tenants="aab")).run()
    assert [each.cached_tokens for each in served] == [0, 384, 384]
    texts = {
        SYSTEM: Text(64),
        TextId("x"): Text(320, DomainTag("a")),
        TextId("y"): Text(320, DomainTag("b"), TextId("x")),
    }
    probing = replace(
        trace(asked[:2]),
        texts=texts,
        requests=(
            TraceRequest(0, 0.0, SYSTEM, (TextId("x"),), 40, 3, tenant=TenantId("a")),
            TraceRequest(1, 10.0, SYSTEM, (TextId("y"),), 40, 3, tenant=TenantId("b")),
        ),
    )
    # the prober brings the very same words: only the public system prompt is a hit
    assert [each.cached_tokens for each in Simulation(shape(1), probing).run()] == [0, 64]


@pytest.mark.parametrize("policy", ["predicted_seconds", "power_of_two", "prefix_affinity"])
@pytest.mark.parametrize("concurrency", [None, 3])
def test_simulation_repeats_itself_when_the_seed_is_the_same(policy: str, concurrency: int | None) -> None:
    asked = [(name, other) for name in "abcdef" for other in "uvw"]
    made = shape(3, policy, concurrency=concurrency, ingresses=2)
    runs = [Simulation(made, trace(asked, gap_s=0.05), seed=7).run() for _ in range(2)]
    assert runs[0] == runs[1]
    assert sorted(each.number for each in runs[0]) == list(range(len(asked)))


def test_simulation_evicts_when_the_device_tier_is_small() -> None:
    asked = [(name,) for name in "abcdefghijklm" * 2]
    assert all(each.cached_tokens <= 64 for each in Simulation(shape(1), trace(asked)).run())
    large = shape(1, engine=replace(ENGINE, device_tokens=16_384))
    assert sum(each.cached_tokens > 64 for each in Simulation(large, trace(asked)).run()) == 13


def test_simulation_queues_when_requests_come_faster_than_prefills() -> None:
    served = Simulation(shape(1), trace([(name,) for name in "abcdef"], gap_s=0.001)).run()
    assert max(each.ttft_s for each in served) > 3 * min(each.ttft_s for each in served)


def test_simulation_counts_prompts_that_no_engine_takes_as_refused() -> None:
    simulation = Simulation(shape(1), trace([("x",), tuple("abcdefg"), ("x",)]))
    served = simulation.run()
    assert [each.number for each in served] == [0, 2]
    assert simulation.refused == 1


def test_simulation_waits_for_a_worker_when_all_are_full() -> None:
    served = Simulation(shape(1, max_ongoing=1), trace([("a",), ("b",)], gap_s=0.0)).run()
    assert len(served) == 2
    assert served[1].ttft_s > served[0].e2e_s


def test_summary_adds_up() -> None:
    served = Simulation(shape(), trace([("x",), ("y",), ("x",)])).run()
    summary = summarize(served, 2)
    assert summary.prompt_tokens == 3 * (64 + 320 + 40)
    assert summary.computed_tokens == summary.prompt_tokens - summary.cached_tokens
    assert summary.hit_ratio == pytest.approx(summary.cached_tokens / summary.prompt_tokens)
    assert summary.itl_p50_s == pytest.approx(0.01)
    assert summary.least_share + summary.largest_share == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workers": 0}, "workers"),
        ({"concurrency": 0}, "concurrency"),
        ({"document_order": "best"}, "document_order"),
    ],
)
def test_shape_names_what_cannot_be(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        shape(**changes)  # type: ignore[arg-type]


def test_routing_text_shares_prefixes_exactly_as_ids_do() -> None:
    made = trace([("x", "y"), ("x", "z")])
    prompts = Prompts(made, 1000)
    first, second = (prompts.prompt(request) for request in made.requests)
    texts = [prompts.routing_text(each) for each in (first, second)]
    common = next(i for i, (a, b) in enumerate(zip(*texts, strict=True)) if a != b)
    shared_tokens = next(
        i for i, (a, b) in enumerate(zip(first.token_ids, second.token_ids, strict=True)) if a != b
    )
    assert shared_tokens == 384
    assert common // 4 == shared_tokens
