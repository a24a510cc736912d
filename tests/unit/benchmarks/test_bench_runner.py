"""Running a plan, with servers that answer at once in this process."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness.drive import Driver, Place
from benchmarks.harness.plan import Member, groups, parse_load
from benchmarks.harness.records import RunFolder
from benchmarks.harness.retrieval import Retrieved
from benchmarks.harness.runner import RATE_PROBES, Plan, Runner
from benchmarks.systems.system import Counters, Query, Reply, Settings
from mygo.config import ModelConfig
from mygo.types import PUBLIC, Prompt, Segment, SegmentKey, SegmentKind
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest

REQUESTS = 10
PER_ROUND = 4
OPEN_PER_ROUND = 5
TOKENS = 50
"""Of every prompt."""


@dataclass
class Echo:
    """A server that answers at once, or dies after some requests, as if the machine were switched off."""

    delay_s: float = 0.0
    dies_after: int | None = None
    asked: list[Query] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    root_pids: tuple[int, ...] = ()
    engine_title: str = ""

    async def ask(self, query: Query) -> Reply:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise SystemExit(137)
        self.asked.append(query)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(self.delay_s)
        self.open -= 1
        ids = list(range(query.output_tokens))
        return Reply([time.perf_counter()] * len(ids), ids, query.prompt.token_ids, 10, 0.0, 0.1)

    async def counters(self) -> Counters:
        return Counters()

    def stop(self) -> None:
        pass


class NoRetrieval:
    def fill(self, queries: list[Query]) -> None:
        pass

    async def retrieve(self, query: Query) -> Retrieved:
        return Retrieved(0.0, 0.0)


class Editions:
    """Queries with the trace's numbers; the edition is their only document."""

    def queries(self, trace: Trace, edition: str, *, output_tokens: int | None) -> list[Query]:
        return [query(request.number, request.arrival_s, edition) for request in trace.requests]


def query(number: int, arrival_s: float = 0.0, edition: str = "", output_tokens: int = 3) -> Query:
    segment = Segment(SegmentKind.TURN, tuple(range(TOKENS)), SegmentKey("k"), PUBLIC)
    documents = ((edition, "text"),)
    return Query(number, arrival_s, "default", (("user", "?"),), documents, Prompt((segment,)), output_tokens)


def plan(*systems: str, loads: tuple[str, ...] = ("closed:1",)) -> Plan:
    requests = tuple(TraceRequest(n, n / 1000, TextId("s"), (), 1, 3) for n in range(REQUESTS))
    return Plan(
        trace=Trace("tiny", {TextId("s"): Text(1)}, requests),
        groups=groups(systems, systems[0], dict.fromkeys(systems, 1.0), 99.0),
        loads=[parse_load(each) for each in loads],
        per_round=PER_ROUND,
        open_per_round=OPEN_PER_ROUND,
        output_tokens=None,
        seed=1,
        settings=Settings(
            model=ModelConfig(kv_cache_bytes=100 * TOKENS),
            model_path=Path(),
            cache_dir=Path(),
            cores=(0, 1),
            host_kv_bytes=0,
            kv_bytes_per_token=100,
            tenants=("default",),
        ),
        throttle=None,
    )


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Tasks that died with their run are told of, with a traceback, when they are collected. If that is while
    a later test parses Python, CPython 3.11's parser fails: tracebacks use it, too."""
    yield
    gc.collect()


def run(path: Path, what: Plan, servers: dict[str, Echo]) -> RunFolder:
    def start(member: Member, settings: Settings, folder: Path, spare: tuple[int, ...]) -> Echo:
        return servers[member.label]

    with RunFolder.opened(path, {"run": 1}) as folder:
        console = Console(file=io.StringIO())
        runner = Runner(what, folder, Editions(), NoRetrieval(), console, start)  # type: ignore[arg-type]
        asyncio.run(runner.run())
    return folder


def test_every_system_serves_every_request_once_per_load(tmp_path: Path) -> None:
    servers = {"vllm": Echo(), "mygo": Echo()}
    folder = run(tmp_path, plan("vllm", "mygo", loads=("closed:1", "open:500")), servers)
    for label in servers:
        for load in ("closed-1", "open-500"):
            records = folder.requests(label, load)
            assert [each.request for each in records] == list(range(REQUESTS))
            length = PER_ROUND if load == "closed-1" else OPEN_PER_ROUND
            assert [each.round for each in records] == [n // length for n in range(REQUESTS)]
            assert all(each.error is None and each.computed_tokens == TOKENS - 10 for each in records)
    assert {name for each in servers["mygo"].asked for name, _ in each.documents} == {
        "warm-up",
        "closed-1",
        "open-500",
    }, "each load has texts of its own"


def test_share_of_the_baselines_rate_is_measured_once_when_no_load_has_told_it(tmp_path: Path) -> None:
    what = plan("vllm", "mygo", loads=("open:50%",))
    servers = {"vllm": Echo(delay_s=1e-3), "mygo": Echo(dies_after=2)}
    with pytest.raises(SystemExit):
        run(tmp_path, what, servers)
    probes = [each for each in servers["vllm"].asked if each.documents == (("rate", "text"),)]
    assert [each.number for each in probes] == list(range(min(REQUESTS, RATE_PROBES)))
    rate = json.loads((tmp_path / "rate.json").read_text())
    servers = {"vllm": Echo(), "mygo": Echo()}
    folder = run(tmp_path, what, servers)
    assert all(each.documents != (("rate", "text"),) for each in servers["vllm"].asked)
    for label in servers:
        assert {each.rate for each in folder.rounds(label, "open-50pct").values()} == {0.5 * rate}


def test_run_goes_on_without_serving_finished_rounds_again(tmp_path: Path) -> None:
    """Scenario: the run is cut off in its second round; the caches are filled again before it goes on."""
    with pytest.raises(SystemExit):
        run(tmp_path, plan("vllm"), {"vllm": Echo(dies_after=2 + PER_ROUND + 1)})
    raw = tmp_path / "raw" / "vllm-closed-1.jsonl"
    before = raw.read_text().splitlines()
    assert len(before) == PER_ROUND
    server = Echo()
    folder = run(tmp_path, plan("vllm"), {"vllm": server})
    assert raw.read_text().splitlines()[:PER_ROUND] == before
    assert [each.request for each in folder.requests("vllm", "closed-1")] == list(range(REQUESTS))
    rounds = folder.rounds_in_order("vllm", "closed-1")
    assert [each.refilled for each in rounds] == [False, True, False]
    # two to warm up, then twice the cache of one prompt's size, one token each, then the rest
    assert [(each.number, each.output_tokens) for each in server.asked[2:6]] == [
        (2, 1),
        (3, 1),
        (4, 3),
        (5, 3),
    ]


def test_finished_run_starts_nothing(tmp_path: Path) -> None:
    run(tmp_path, plan("vllm"), {"vllm": Echo()})
    run(tmp_path, plan("vllm"), {})


def test_run_ends_when_a_system_answers_nothing_any_more(tmp_path: Path) -> None:
    class Broken(Echo):
        async def ask(self, query: Query) -> Reply:
            if query.documents[0][0] == "warm-up":
                return await super().ask(query)
            raise RuntimeError("connection refused")

    with pytest.raises(
        RuntimeError, match=r"vllm answered nothing any more: RuntimeError: connection refused"
    ):
        run(tmp_path, plan("vllm"), {"vllm": Broken()})
    assert not (tmp_path / "raw" / "vllm-closed-1.jsonl").exists()


def test_closed_loop_keeps_its_number_of_requests_open() -> None:
    server = Echo(delay_s=0.002)
    driver = Driver(server, NoRetrieval(), Place("a", "closed-3", 0))  # type: ignore[arg-type]
    records = asyncio.run(driver.closed([query(number) for number in range(9)], 3))
    assert server.most_open == 3
    assert [each.request for each in records] == list(range(9))


def test_open_loop_sends_on_time_whatever_is_still_open() -> None:
    server = Echo(delay_s=0.05)
    driver = Driver(server, NoRetrieval(), Place("a", "open-1", 0))  # type: ignore[arg-type]
    records = asyncio.run(driver.open([query(0), query(1), query(2)], [0.0, 0.01, 0.02]))
    assert server.most_open == 3
    assert [each.arrived_s for each in records] == [0.0, 0.01, 0.02]
    assert all(0.05 <= (each.ttft_s or 0.0) < 0.5 for each in records)


def test_answer_of_another_length_is_a_failure() -> None:
    class Short(Echo):
        async def ask(self, query: Query) -> Reply:
            reply = await super().ask(query)
            reply.output_ids.pop()
            return reply

    driver = Driver(Short(), NoRetrieval(), Place("a", "closed-1", 0))  # type: ignore[arg-type]
    (record,) = asyncio.run(driver.closed([query(0)], 1))
    assert record.error == "RuntimeError: request 0: 2 tokens came back, not 3"
    assert record.ttft_s is None
