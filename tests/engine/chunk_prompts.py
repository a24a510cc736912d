"""Prompts of documents for tests of chunk reuse, and a model that notices what they say.

The tiny model's dummy weights are so small that its attention is even and its answers hardly depend on the
prompt: wrong KV would pass unseen. Here weights have the scale of trained ones.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_engine import BLOCK_TOKENS, TinyEngine, save_model, words

from mygo.blend import plan
from mygo.vllm_plugin.settings import ChunkSettings, TierSettings, engine_arguments

Words = tuple[int, ...]

CHUNKS = ChunkSettings(host_bytes=2**26, floor_tokens=4, load_gate=False)

ROUNDING = 2e-4
"""Largest difference of log probabilities between float32 runs that compute in steps of other sizes."""


def save_keen_model(folder: Path) -> Path:
    """A Llama of random weights whose attention is sharp."""
    save_model(folder)
    config = json.loads((folder / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads, kv_heads, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    generator = torch.Generator().manual_seed(1)

    def gaussian(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * gain / columns**0.5

    weights = {
        "model.embed_tokens.weight": torch.randn(config["vocab_size"], hidden, generator=generator),
        "lm_head.weight": gaussian(config["vocab_size"], hidden),
        "model.norm.weight": torch.ones(hidden),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}."
        weights |= {
            at + "input_layernorm.weight": torch.ones(hidden),
            at + "post_attention_layernorm.weight": torch.ones(hidden),
            at + "self_attn.q_proj.weight": gaussian(heads * head, hidden, 1.5),
            at + "self_attn.k_proj.weight": gaussian(kv_heads * head, hidden, 1.5),
            at + "self_attn.v_proj.weight": gaussian(kv_heads * head, hidden),
            at + "self_attn.o_proj.weight": gaussian(hidden, heads * head, 2.0),
            at + "mlp.gate_proj.weight": gaussian(config["intermediate_size"], hidden),
            at + "mlp.up_proj.weight": gaussian(config["intermediate_size"], hidden),
            at + "mlp.down_proj.weight": gaussian(hidden, config["intermediate_size"]),
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def name(*parts: object) -> str:
    """32 hex digits that name something."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Asked:
    """A system prompt, documents, a question."""

    system: Words
    documents: tuple[Words, ...]
    question: Words
    reuse: str = "exact"
    salt: str = "public"
    filler: bool = False

    @property
    def ids(self) -> list[int]:
        return [*self.system, *(token for document in self.documents for token in document), *self.question]

    @property
    def starts(self) -> list[int]:
        """Where each document begins."""
        starts, at = [], len(self.system)
        for document in self.documents:
            starts.append(at)
            at += len(document)
        return starts

    @property
    def params(self) -> dict[str, Any]:
        spans: list[list[Any]] = []
        parts = (self.system, *self.documents, self.question)
        end = 0
        for number, part in enumerate(parts):
            end += len(part)
            tag = tag_of(part) if 0 < number < len(parts) - 1 else ""
            spans.append(
                [name(self.salt, parts[: number + 1]), end, self.salt, tag, self.salt if tag else ""]
            )
        return {"mygo": {"spans": spans, "reuse": self.reuse, "filler": self.filler}}


def tag_of(document: Words) -> str:
    return name("passage", document)


@dataclass(frozen=True)
class Answer:
    ids: tuple[int, ...]
    cached_tokens: int
    logprobs: tuple[float, ...]
    """Of the likeliest first tokens."""
    told: Any = None


class ChunkEngine(TinyEngine):
    """Serves ``Asked``."""

    def ask(self, asked: Asked, max_tokens: int = 4) -> str:
        from vllm import SamplingParams

        self._count += 1
        request_id = f"q{self._count}"
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            logprobs=5,
            extra_args={"kv_transfer_params": asked.params},
        )
        prompt = {"prompt_token_ids": asked.ids, "cache_salt": asked.salt}
        self.engine.add_request(request_id, prompt, params)
        return request_id

    def step_answers(self) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for output in self.engine.step():
            if output.finished:
                (completion,) = output.outputs
                first = sorted((each.logprob for each in completion.logprobs[0].values()), reverse=True)
                answers[output.request_id] = Answer(
                    tuple(completion.token_ids),
                    output.num_cached_tokens or 0,
                    tuple(first[:5]),
                    output.kv_transfer_params,
                )
        return answers

    def answer(self, asked: Sequence[Asked], max_tokens: int = 4) -> list[Answer]:
        """All at once; answers in their order."""
        ids = [self.ask(each, max_tokens) for each in asked]
        answers: dict[str, Answer] = {}
        while self.engine.has_unfinished_requests():
            answers |= self.step_answers()
        return [answers[request_id] for request_id in ids]

    def one_answer(self, asked: Asked, max_tokens: int = 4) -> Answer:
        return self.answer([asked], max_tokens)[0]

    @property
    def connector(self) -> Any:
        return self.core.scheduler.connector

    def held(self, document: Words, salt: str = "public") -> int:
        """Chunks of a document that a path of one domain may use."""
        return len(self.held_keys(document, salt))

    def held_keys(self, document: Words, salt: str = "public") -> set[str]:
        catalog = self.connector._chunks._holdings._catalog
        return {held.variant.key for held in catalog.held(tag_of(document), {salt})}

    @property
    def runner(self) -> Any:
        return self.core.model_executor.driver_worker.worker.model_runner

    @property
    def mover(self) -> Any:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group()._worker.chunks

    @property
    def mover_steps(self) -> list[Any]:
        """What the workers were told, from the first time that this is asked on."""
        mover = self.mover
        if not hasattr(mover, "told"):
            mover.told = []
            begin = mover.begin

            def listen(step: Any) -> None:
                mover.told.append(step)
                begin(step)

            mover.begin = listen
        told: list[Any] = mover.told
        return told

    def forget(self) -> None:
        """Empty the device and the chunks."""
        self.reset()
        if self.core.scheduler.connector is not None:
            self.connector.reset_cache()

    def _running(self, request_id: str) -> Any:
        """vLLM's request; None if it does not run now."""
        running = self.core.scheduler.running
        return next((each for each in running if each.request_id.startswith(request_id)), None)

    def running_tokens(self, request_id: str) -> int:
        """Tokens of a request that runs, generated ones included; else 0."""
        request = self._running(request_id)
        return request.num_tokens if request is not None else 0

    def blocks(self, request_id: str) -> list[int]:
        """Of a request; none unless it runs."""
        request = self._running(request_id)
        if request is None:
            return []
        return list(self.core.scheduler.kv_cache_manager.get_block_ids(request.request_id)[0])

    def prompt_kv(self, asked: Asked) -> torch.Tensor:
        """What the device holds of a prompt's full blocks once it is computed."""
        request_id = self.ask(asked, max_tokens=2)
        while not self.running_tokens(request_id) > len(asked.ids):
            self.step_answers()
        kv = self.kv(self.blocks(request_id)[: len(asked.ids) // BLOCK_TOKENS])
        self.drain()
        return kv

    def kv(self, blocks: Sequence[int]) -> torch.Tensor:
        """What the device holds in these blocks: [layers, blocks, ...], as its backend packs it."""
        return torch.stack([cache[list(blocks)] for cache in self.runner.kv_caches])


def some_asks(count: int) -> list[Asked]:
    """Each about documents of its own: a chunk of one is always in the place where it was captured."""
    system = words(random.Random(1), 45)
    rng = random.Random(3)
    return [
        Asked(
            system,
            tuple(words(rng, rng.randrange(40, 110)) for _ in range(4)),
            words(rng, rng.randrange(3, 30)),
        )
        for _ in range(count)
    ]


class Engines:
    """One at a time: a process has one KV connector."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._made: tuple[Any, ...] = ()
        self._engine: ChunkEngine | None = None

    def get(
        self, chunks: ChunkSettings | None, tiers: TierSettings | None = None, **arguments: Any
    ) -> ChunkEngine:
        """An empty one; that of the last call if it was made in the same way. None: plain vLLM, no cache."""
        wanted = (chunks, tiers, *sorted(arguments.items()))
        if self._engine is None or self._made != wanted:
            self.close()
            ours: dict[str, Any] = {"enable_prefix_caching": False}
            if chunks is not None:
                ours = engine_arguments(chunks=chunks, tiers=tiers)
            self._engine = ChunkEngine(self._model, **ours, **arguments)
            self._made = wanted
        self._engine.forget()
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def blended(ask: Asked) -> Asked:
    return replace(ask, reuse="blend")


def same(answer: Answer, expected: Answer) -> bool:
    difference = max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True))
    return answer.ids[: len(expected.ids)] == expected.ids and difference < ROUNDING


def capture(engine: ChunkEngine, asks: list[Asked]) -> None:
    """Serve them exactly, and keep nothing of them but chunks."""
    for ask in asks:
        engine.reset()
        engine.one_answer(ask)
    engine.reset()


def repair_any(monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    """Repair any tokens of a chunk, however they lie, but not all; of documents of one length the same."""
    seed = rng.random()

    def select(method: object, tokens: int, *_: int) -> list[int]:
        drawn = random.Random(f"{seed} {tokens}")
        return sorted(drawn.sample(range(tokens), k=drawn.randrange(tokens)))

    monkeypatch.setattr(plan, "select", select)


def preempted_prompts(engine: ChunkEngine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests that are preempted from now on before all of their prompt is computed."""
    preempted: list[str] = []
    preempt = engine.core.scheduler._preempt_request

    def count(request: Any, *arguments: Any, **rest: Any) -> None:
        if request.num_computed_tokens < request.num_prompt_tokens:
            preempted.append(request.request_id)
        preempt(request, *arguments, **rest)

    monkeypatch.setattr(engine.core.scheduler, "_preempt_request", count)
    return preempted
