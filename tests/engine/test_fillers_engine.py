"""Copies behind neutral documents in a real vLLM, from the answer that asks for one to those that use it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from chunk_prompts import CHUNKS, Answer, Asked, ChunkEngine, blended, same, save_keen_model
from tiny_engine import words

from mygo.serve import fillers
from mygo.serve.fillers import Fillers, Outcome
from mygo.types import (
    GenerateRequest,
    PrefillStats,
    RequestId,
    Reuse,
    Sampling,
    SegmentKey,
    SegmentSpan,
    Tier,
    TokenDelta,
    WorkerLoad,
)
from mygo.vllm_plugin import spans
from mygo.vllm_plugin.filling import FillerNews
from mygo.vllm_plugin.settings import engine_arguments

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]

NEUTRAL = [words(random.Random(8), 40), words(random.Random(9), 40)]


def _request(asked: Asked) -> GenerateRequest:
    """As the worker process knows it."""
    segments = tuple(
        SegmentSpan(SegmentKey(key), end_tokens, salt, tag, own_salt)
        for key, end_tokens, salt, tag, own_salt in asked.params["mygo"]["spans"]
    )
    return GenerateRequest(
        RequestId("asked"), asked.ids, segments, Sampling(max_tokens=4), reuse=Reuse(asked.reuse)
    )


class Filled(ChunkEngine):
    """Stands for the worker process, too: makes the copies that it is asked for."""

    def serve_one(self, asked: Asked) -> tuple[Answer, FillerNews]:
        answer = self.one_answer(asked)
        return answer, FillerNews(**answer.told["mygo"].get("fillers", {}))

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=request.sampling.max_tokens, extra_args={"kv_transfer_params": spans.params(request)}
        )
        prompt = {"prompt_token_ids": list(request.token_ids), "cache_salt": request.spans[0].salt}
        self.engine.add_request(request.request_id, prompt, params)
        while True:
            for output in self.engine.step():
                if output.finished:
                    stats = PrefillStats({Tier.DEVICE: output.num_cached_tokens or 0}, 0.0, 0.0)
                    yield TokenDelta(text="", token_ids=(1,), finish_reason="length", prefill=stats)
                    return

    def idle(self, asked: Asked, news: FillerNews) -> tuple[Counter[Outcome], int]:
        """The engine has nothing to do for a while. Outcomes, and tokens computed."""
        outcomes: Counter[Outcome] = Counter()
        computed_tokens = 0

        def record(outcome: Outcome, tokens: int) -> None:
            nonlocal computed_tokens
            outcomes[outcome] += 1
            computed_tokens += tokens

        async def make() -> None:
            maker = Fillers(self.generate, NEUTRAL, WorkerLoad, record, lambda tokens: None)
            task = asyncio.create_task(maker.run())
            maker.offer(_request(asked), news)
            while outcomes.total() < len(news.wanted):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(asyncio.wait_for(make(), 300))
        return outcomes, computed_tokens


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("filled")
    chunks = replace(CHUNKS, fillers="1", guard=False)
    arguments = engine_arguments(str(folder / "nobody-listens"), chunks=chunks)
    engine = Filled(save_keen_model(folder / "model"), device_blocks=96, step_tokens=64, **arguments)
    yield engine
    engine.close()


def test_document_that_came_first_twice_is_reused_in_second_place_and_exact_answers_stay_exact(
    engine: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fillers, "QUIET_S", 0.001)
    rng = random.Random(11)
    system, document, other = words(rng, 45), words(rng, 90), words(rng, 50)

    def alone(salt: str = "public") -> Asked:
        return Asked(system, (document,), words(rng, 9), salt=salt)

    second = Asked(system, (other, document), words(rng, 9))
    engine.forget()
    exact = engine.one_answer(second)  # of an engine that knows nothing
    engine.forget()

    _, news = engine.serve_one(blended(alone()))
    assert not news.wanted
    asked = blended(alone())
    _, news = engine.serve_one(asked)
    assert [number for number, _ in news.wanted] == [1]
    outcomes, computed_tokens = engine.idle(asked, news)
    assert outcomes == {Outcome.CAPTURED: 1} and computed_tokens >= len(document)
    assert engine.held(document) == 2, "one for the first place, and one for all others"

    engine.reset()
    answer, news = engine.serve_one(blended(second))
    assert answer.told["mygo"]["chunks"]["approximate"] and answer.told["mygo"]["chunks"]["loaded_tokens"] > 0
    assert news.used_tokens == len(document)

    for _ in range(2):  # with what that left on the device, and without
        assert same(engine.one_answer(second), exact)
        engine.reset()

    prober, news = engine.serve_one(blended(replace(second, salt="tenant-a")))
    assert prober.cached_tokens == 0 and not prober.told["mygo"]["chunks"]["approximate"]
    assert same(prober, exact)
