"""The plugin in a real vLLM with a real model, in float32: exact, isolated, held, and truly told.

Both engines run in this process, so that the block pool can be looked at; plain vLLM's ends before.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mygo.tree.keys import domain_salt, narrow, root_key, segment_key
from mygo.types import PUBLIC, DomainTag, ResidencyEvent, SegmentKey, WorkerId, WorkerReport

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]

BLOCK_TOKENS = 32
BLOCKS = 145  # one is vLLM's placeholder: 4,608 tokens, so that random requests evict
KV_BYTES_PER_TOKEN = 2 * 30 * 3 * 64 * 4  # keys and values, layers, KV heads, head size, float32
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": BLOCK_TOKENS,
    "kv_cache_memory_bytes": BLOCKS * BLOCK_TOKENS * KV_BYTES_PER_TOKEN,
    "max_num_batched_tokens": 288,
    "long_prefill_token_threshold": 256,
    "max_model_len": 4096,
    "max_num_seqs": 32,
}
ROOT = root_key(model="test", kv_dtype="float32")
SECRET = b"secret"
ANSWER_TOKENS = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A segment of a prompt and whose it is."""

    ids: tuple[int, ...]
    domain: DomainTag = PUBLIC


@dataclass(frozen=True)
class Served:
    ids: tuple[int, ...]
    cached_tokens: int


def _words(rng: random.Random, tokens: int) -> tuple[int, ...]:
    return tuple(rng.randrange(1000, 40_000) for _ in range(tokens))


def _flat(parts: Sequence[Part]) -> list[int]:
    return [token for part in parts for token in part.ids]


def _path(parts: Sequence[Part]) -> list[tuple[SegmentKey, int, str, DomainTag]]:
    path = []
    key, end_tokens, domain = ROOT, 0, PUBLIC
    for part in parts:
        domain = narrow(domain, part.domain)
        key = segment_key(key, domain, part.ids)
        end_tokens += len(part.ids)
        path.append((key, end_tokens, domain_salt(SECRET, domain), domain))
    return path


def _exact_prompts() -> list[list[Part]]:
    rng = random.Random(1)
    system = Part(_words(rng, 45))
    documents = [Part(_words(rng, rng.randrange(60, 130))) for _ in range(8)]
    return [
        [system, *rng.sample(documents, 3), Part(_words(rng, rng.randrange(5, 40)), DomainTag("t"))]
        for _ in range(12)
    ]


class Engine:
    """vLLM with the plugin, stepped by hand, and the reports that come out of it."""

    def __init__(self, model: Path, socket_path: Path) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from mygo.vllm_plugin.receiver import ReportReceiver
        from mygo.vllm_plugin.settings import engine_arguments

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.receiver = ReportReceiver(socket_path, WorkerId("w"))
        self.wait(self.receiver.start())
        args = EngineArgs(model=str(model), **ENGINE, **engine_arguments(str(socket_path)))
        self._engine = LLMEngine.from_engine_args(args)
        self.scheduler = self._engine.engine_core.engine_core.scheduler
        self._count = 0

    def wait(self, result: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(result, self._loop).result(60)

    def add(self, parts: Sequence[Part], max_tokens: int = 1) -> str:
        from vllm import SamplingParams

        path = _path(parts)
        mygo = {"spans": [list(step[:3]) for step in path], "answer_domain": path[-1][3]}
        self._count += 1
        request_id = f"r{self._count}"
        self._engine.add_request(
            request_id,
            {"prompt_token_ids": _flat(parts), "cache_salt": path[0][2]},
            SamplingParams(
                max_tokens=max_tokens,
                temperature=0.0,
                ignore_eos=True,
                extra_args={"kv_transfer_params": {"mygo": mygo}},
            ),
        )
        return request_id

    def step(self) -> dict[str, Served]:
        """One engine step; returns the requests that it finished."""
        return {
            output.request_id: Served(tuple(output.outputs[0].token_ids), output.num_cached_tokens or 0)
            for output in self._engine.step()
            if output.finished
        }

    def drain(self) -> dict[str, Served]:
        served: dict[str, Served] = {}
        while self._engine.has_unfinished_requests():
            served |= self.step()
        return served

    def serve(self, parts: Sequence[Part], max_tokens: int = 1) -> Served:
        request_id = self.add(parts, max_tokens)
        return self.drain()[request_id]

    def abort(self, request_id: str) -> None:
        self._engine.abort_request([request_id])

    def reset(self) -> None:
        assert self._engine.reset_prefix_cache()

    def close(self) -> None:
        self._engine.engine_core.shutdown()
        self.wait(self.receiver.close())
        self._loop.call_soon_threadsafe(self._loop.stop)


@pytest.fixture(scope="module")
def plain_answers(demo_model: Path, engine_in_process: None) -> list[tuple[int, ...]]:
    """What vLLM without the plugin says to the exactness prompts, one at a time, uncached."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=str(demo_model), **{**ENGINE, "enable_prefix_caching": False})
    answers = []
    sampling = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True)
    for parts in _exact_prompts():
        output = llm.generate({"prompt_token_ids": _flat(parts)}, sampling, use_tqdm=False)
        answers.append(tuple(output[0].outputs[0].token_ids))
    llm.llm_engine.engine_core.shutdown()
    return answers


@pytest.fixture(scope="module")
def _engine(
    demo_model: Path, plain_answers: list[tuple[int, ...]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    engine = Engine(demo_model, tmp_path_factory.mktemp("socket") / "engine.sock")
    yield engine
    engine.close()


@pytest.fixture
def engine(_engine: Engine) -> Engine:
    """The one engine, with an empty cache."""
    _engine.reset()
    return _engine


def test_answers_are_plain_vllms_when_cold_and_warm_and_beside_neighbours(
    engine: Engine, plain_answers: list[tuple[int, ...]]
) -> None:
    prompts = _exact_prompts()
    alone = [engine.serve(parts, ANSWER_TOKENS) for parts in prompts]
    warm = [engine.serve(parts, ANSWER_TOKENS) for parts in prompts]
    engine.reset()
    ids = [engine.add(parts, ANSWER_TOKENS) for parts in prompts]
    together = engine.drain()
    assert [served.ids for served in alone] == plain_answers
    assert [served.ids for served in warm] == plain_answers
    assert [together[request_id].ids for request_id in ids] == plain_answers
    assert min(served.cached_tokens for served in warm) >= 96


def test_only_the_shared_part_is_cached_when_another_tenant_sends_the_same_ids(engine: Engine) -> None:
    rng = random.Random(2)
    public, private = _words(rng, 200), _words(rng, 150)

    def cached(*parts: Part) -> int:
        return engine.serve(parts).cached_tokens

    ours, theirs = DomainTag("a"), DomainTag("b")
    assert cached(Part(public), Part(private, ours)) == 0
    assert cached(Part(public), Part(private, ours)) == 320
    assert cached(Part(public), Part(private, theirs)) == 192
    assert cached(Part(public), Part(private)) == 192
    assert cached(Part(public), Part(private, theirs)) == 320
    assert cached(Part(public, ours), Part(private, ours)) == 0


def test_answer_is_cached_when_it_returns_in_the_next_turn(engine: Engine) -> None:
    rng = random.Random(3)
    turn = [Part(_words(rng, 100)), Part(_words(rng, 30), DomainTag("a"))]
    answer = engine.serve(turn, max_tokens=100).ids
    report = engine.wait(_settled(engine))
    next_turn = [*turn, Part(answer, DomainTag("a")), Part(_words(rng, 20), DomainTag("a"))]
    key = _path(next_turn)[2][0]
    event = next(event for event in report if event.key == key)
    assert (event.start_tokens, event.end_tokens, event.prefix_tokens) == (130, 230, 224)
    assert engine.serve(next_turn).cached_tokens == 224


def test_burst_computes_a_new_document_once_when_twenty_ask_at_the_same_time(engine: Engine) -> None:
    rng = random.Random(4)
    document = Part(_words(rng, 2000))
    burst = [engine.add([document, Part(_words(rng, 20), DomainTag("t"))]) for _ in range(20)]
    served = engine.drain()
    # The block that spans document and question belongs to the question (its last token's segment).
    own_tokens = 2000 // BLOCK_TOKENS * BLOCK_TOKENS
    computed = sum(max(0, own_tokens - served[request_id].cached_tokens) for request_id in burst)
    assert computed == own_tokens


def test_siblings_finish_when_their_leader_is_aborted(engine: Engine) -> None:
    rng = random.Random(5)
    document = Part(_words(rng, 1200))
    burst = [engine.add([document, Part(_words(rng, 10))]) for _ in range(4)]
    engine.step()
    engine.step()
    engine.abort(burst[0])
    served = engine.drain()
    assert set(burst[1:]) <= served.keys()
    # the next one begins where the leader was stopped
    assert served[burst[1]].cached_tokens >= 480
    assert min(served[request_id].cached_tokens for request_id in burst[2:]) >= 1184


def test_reports_equal_the_pools_truth_when_random_requests_evict_each_other(engine: Engine) -> None:
    rng = random.Random(6)
    system = Part(_words(rng, 45))
    documents = [Part(_words(rng, rng.randrange(100, 350))) for _ in range(20)]
    prompts: list[list[Part]] = []
    for _ in range(20):
        prompts.append([system, *rng.sample(documents, rng.randrange(1, 4)), Part(_words(rng, 20))])
        engine.add(prompts[-1])
        for _ in range(rng.randrange(3)):
            engine.step()
    engine.drain()
    told = {event.key: event for event in engine.wait(_settled(engine))}
    held = evicted = 0
    for parts in prompts:
        truth = _prefix_in_pool(engine, parts)
        assert _located(parts, told) == truth
        held += truth
        evicted += len(_flat(parts)) // BLOCK_TOKENS * BLOCK_TOKENS - truth
    assert held and evicted


def _located(parts: Sequence[Part], told: dict[SegmentKey, ResidencyEvent]) -> int:
    """Leading tokens held, as a router would count them from the reports."""
    start_tokens = tokens = 0
    for key, end_tokens, _, _ in _path(parts):
        if end_tokens // BLOCK_TOKENS > start_tokens // BLOCK_TOKENS:
            event = told.get(key)
            if event is None:
                break
            tokens = event.prefix_tokens
            if not event.complete:
                break
        start_tokens = end_tokens
    return tokens


def _prefix_in_pool(engine: Engine, parts: Sequence[Part]) -> int:
    """Leading tokens that the block pool really has: one more request would hit them."""
    from vllm import SamplingParams
    from vllm.v1.request import Request

    from mygo.types import SegmentSpan
    from mygo.vllm_plugin import identity

    path = _path(parts)
    request = Request(
        request_id="probe",
        prompt_token_ids=_flat(parts),
        sampling_params=SamplingParams(max_tokens=1),
        pooling_params=None,
        cache_salt=path[0][2],
        block_hasher=engine._engine.engine_core.engine_core.request_block_hasher,
    )
    identity.narrow(request, [SegmentSpan(*step[:3]) for step in path], BLOCK_TOKENS)
    blocks = 0
    for block_hash in request.block_hashes:
        if engine.scheduler.kv_cache_manager.block_pool.get_cached_block(block_hash, [0]) is None:
            break
        blocks += 1
    return blocks * BLOCK_TOKENS


async def _settled(engine: Engine) -> tuple[ResidencyEvent, ...]:
    """All that the worker was told, once the engine has nothing left to tell."""
    report: WorkerReport = await engine.receiver.next_report(1.0)
    while report.events or report.load.running or report.load.waiting:
        report = await engine.receiver.next_report(1.0)
    return (await engine.receiver.snapshot()).events


def test_hello_says_what_the_engine_has_when_it_connects(engine: Engine) -> None:
    hello = engine.wait(engine.receiver.hello())
    assert (hello.block_tokens, hello.device_tokens, hello.pid) == (BLOCK_TOKENS, 4608, os.getpid())
