"""The quality guard on a real vLLM: what is sound gets proven, what is broken goes off.

Documents that come back to the very prompt in which they were kept hold what an exact prefill computes: those
are the sound ones. Moved ones, of a model whose attention is sharp and without any repair, are not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chunk_prompts import Asked, ChunkEngine, save_keen_model, tag_of
from safetensors.torch import load_file, save_file
from tiny_engine import words

from mygo.blend import guard
from mygo.serve.divergence import Probed, compare
from mygo.serve.probing import TOP, probed
from mygo.vllm_plugin.chunks.quality_view import QualityView
from mygo.vllm_plugin.settings import ChunkSettings, engine_arguments
from mygo.vllm_plugin.wire import Assess, Observe

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]

CHUNKS = ChunkSettings(host_bytes=2**26, repair_share=0.0, floor_tokens=0, load_gate=False)
SHADOWS = 50
"""Within which what is broken must be off."""


def _save_sure_model(folder: Path) -> Path:
    """One whose answers are likely: what is told of a few tokens says little of an even distribution."""
    weights = load_file(save_keen_model(folder) / "model.safetensors")
    weights["lm_head.weight"] *= 5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Guarded(ChunkEngine):
    """Stands for the worker process, too: compares what it is asked to."""

    def serve_one(self, asked: Asked, ticket: int | None = None) -> tuple[Probed, int | None]:
        """An answer, and the ticket that came with it."""
        from vllm import SamplingParams

        self._count += 1
        told = asked.params["mygo"] | ({"ticket": ticket} if ticket is not None else {})
        params = SamplingParams(
            max_tokens=4,
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            logprobs=TOP,
            extra_args={"kv_transfer_params": {"mygo": told}},
        )
        prompt: Any = {"prompt_token_ids": asked.ids, "cache_salt": asked.salt}
        self.engine.add_request(f"g{self._count}", prompt, params)
        while True:
            for output in self.engine.step():
                if output.finished:
                    return probed(output), output.kv_transfer_params["mygo"].get("ticket")

    def compare(self, asked: Asked, ticket: int) -> None:
        blended, _ = self.serve_one(replace(asked, reuse="blend"), ticket)
        assert blended.approximate
        exact, _ = self.serve_one(replace(asked, reuse="exact"), ticket)
        self.connector._chunks.obey(Observe(0, ticket, compare(exact, blended)))

    @property
    def view(self) -> QualityView:
        view: QualityView = self.connector._chunks.obey(Assess(0)).quality
        return view


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    arguments = engine_arguments(str(folder / "nobody-listens"), chunks=CHUNKS)
    engine = Guarded(_save_sure_model(folder / "model"), device_blocks=96, step_tokens=128, **arguments)
    yield engine
    engine.close()


@pytest.fixture
def asks(engine: Guarded, monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Prompts whose documents are kept; nothing is proven, and every request is compared."""
    monkeypatch.setattr(guard, "FIRST_SHARE", 1.0)
    monkeypatch.setattr(guard, "COST_SHARE", 1.0)
    rng = random.Random(5)
    system = words(rng, 45)
    asks = [
        Asked(system, tuple(words(rng, rng.randrange(40, 80)) for _ in range(3)), words(rng, 9))
        for _ in range(4)
    ]
    engine.forget()
    engine.connector._chunks._quality.reset()
    for ask in asks:
        engine.reset()
        engine.serve_one(ask)
    return asks


def _shadow(engine: Guarded, next_prompt: Callable[[random.Random], Asked], ended: Callable[[], bool]) -> int:
    """Serve and compare until then; the number of comparisons."""
    rng = random.Random(6)
    for _ in range(200):
        if ended():
            return engine.view.observations
        engine.reset()
        asked = replace(next_prompt(rng), question=words(rng, 9), reuse="blend")
        _, ticket = engine.serve_one(asked)
        if ticket is not None:
            engine.compare(asked, ticket)
    raise AssertionError(f"nothing changed: {engine.view}")


def test_sound_documents_get_proven_and_are_blended_then(engine: Guarded, asks: list[Asked]) -> None:
    _shadow(
        engine,
        lambda rng: rng.choice(asks),
        lambda: any(bucket.state == "proven" for bucket in engine.view.buckets),
    )
    (bucket,) = engine.view.buckets
    assert (bucket.bucket, bucket.alpha, engine.view.documents_off) == (0, 0.0, ())
    engine.reset()
    answer, _ = engine.serve_one(replace(asks[0], reuse="blend"))
    assert answer.approximate


def test_answers_are_exact_until_the_blend_is_proven(engine: Guarded, asks: list[Asked]) -> None:
    engine.reset()
    moved = replace(asks[0], documents=asks[0].documents[::-1])
    exact, _ = engine.serve_one(moved)
    engine.reset()
    answer, ticket = engine.serve_one(replace(moved, reuse="blend"))
    assert ticket is not None and not answer.approximate
    assert answer.token_ids == exact.token_ids


@pytest.mark.slow
def test_blending_goes_off_when_documents_are_moved_without_repair(
    engine: Guarded, asks: list[Asked]
) -> None:
    known = [document for ask in asks for document in ask.documents]
    begun = engine.view.observations

    def anywhere(rng: random.Random) -> Asked:
        """Hardly ever in a context of which there is a copy, though each exact answer leaves some."""
        return replace(asks[0], documents=tuple(rng.sample(known, k=3)))

    def is_off() -> bool:
        return any(bucket.state == "off" for bucket in engine.view.buckets)

    assert _shadow(engine, anywhere, is_off) - begun <= SHADOWS
    tickets: list[int | None] = []
    for seed in range(8):
        engine.reset()
        answer, ticket = engine.serve_one(replace(anywhere(random.Random(seed)), reuse="blend"))
        assert not answer.approximate
        tickets.append(ticket)
    assert None in tickets, "every request is compared, but those of a kind that is off"


def test_document_goes_off_alone_when_its_stored_values_are_scaled(
    engine: Guarded, asks: list[Asked]
) -> None:
    broken = asks[0].documents[1]
    with torch.inference_mode():
        for held in engine.connector._chunks._holdings._catalog.held(tag_of(broken), {"public"}):
            engine.mover._chunks[held.variant.key][:, 1] *= 1.5
    begun = engine.view.observations
    found = _shadow(engine, lambda rng: rng.choice(asks), lambda: bool(engine.view.documents_off))
    assert found - begun <= SHADOWS
    assert engine.view.documents_off == (tag_of(broken),)
    assert all(bucket.state != "off" for bucket in engine.view.buckets)
