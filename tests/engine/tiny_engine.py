"""vLLM with a model of random weights that takes milliseconds: thousands of real requests in a test."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK_TOKENS = 32
LAYERS, KV_HEADS, HEAD = 4, 2, 64
KV_BYTES_PER_TOKEN = 2 * LAYERS * KV_HEADS * HEAD * 4
BLOCK_BYTES = BLOCK_TOKENS * KV_BYTES_PER_TOKEN
VOCABULARY = 4096

_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Served:
    ids: tuple[int, ...]
    cached_tokens: int


@dataclass(frozen=True)
class Ask:
    """A request: documents one after the other, and whose they are."""

    documents: tuple[tuple[int, ...], ...]
    salt: str = "public"
    max_tokens: int = 3
    has_map: bool = True
    """False: as a stock client sends it, without a segment map."""

    @property
    def ids(self) -> list[int]:
        return [token for document in self.documents for token in document]

    @property
    def spans(self) -> list[list[Any]]:
        spans: list[list[Any]] = []
        end = 0
        for number, document in enumerate(self.documents):
            end += len(document)
            spans.append([f"{abs(hash((self.salt, self.documents[: number + 1]))):032x}", end, self.salt])
        return spans


def words(rng: random.Random, tokens: int) -> tuple[int, ...]:
    return tuple(rng.randrange(10, VOCABULARY) for _ in range(tokens))


_HYBRID: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    "rope_local_base_freq": 10000.0,
    "query_pre_attn_scalar": HEAD,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}


def save_model(folder: Path, *, hybrid: bool = False) -> Path:
    """A Llama, or a Gemma 3 in which every other layer has a sliding window."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**_CONFIG, **_HYBRID} if hybrid else _CONFIG
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


class TinyEngine:
    """An LLMEngine in this process, stepped by hand. Needs VLLM_ENABLE_V1_MULTIPROCESSING=0."""

    def __init__(
        self,
        model: Path,
        *,
        device_blocks: int,
        step_tokens: int = 256,
        enforce_eager: bool = True,
        **arguments: Any,
    ) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(model),
                load_format="auto" if (model / "model.safetensors").exists() else "dummy",
                skip_tokenizer_init=True,
                dtype="float32",
                enforce_eager=enforce_eager,
                block_size=BLOCK_TOKENS,
                # one block is vLLM's placeholder
                kv_cache_memory_bytes=(device_blocks + 1) * BLOCK_BYTES,
                max_model_len=min(1024, device_blocks * BLOCK_TOKENS),
                max_num_batched_tokens=step_tokens,
                max_num_seqs=16,
                **arguments,
            )
        )
        self.core = self.engine.engine_core.engine_core
        self._count = 0

    @property
    def tiers(self) -> Any:
        return self.core.scheduler.connector._tiers

    def add(self, ask: Ask) -> str:
        from vllm import SamplingParams

        self._count += 1
        request_id = f"r{self._count}"
        params = SamplingParams(
            max_tokens=ask.max_tokens,
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            extra_args={"kv_transfer_params": {"mygo": {"spans": ask.spans}}} if ask.has_map else None,
        )
        self.engine.add_request(request_id, {"prompt_token_ids": ask.ids, "cache_salt": ask.salt}, params)
        return request_id

    def step(self) -> dict[str, Served]:
        return {
            output.request_id: Served(tuple(output.outputs[0].token_ids), output.num_cached_tokens or 0)
            for output in self.engine.step()
            if output.finished
        }

    def drain(self) -> dict[str, Served]:
        served: dict[str, Served] = {}
        while self.engine.has_unfinished_requests():
            served |= self.step()
        return served

    def serve(self, asks: Sequence[Ask]) -> list[Served]:
        """All at once; answers in their order."""
        ids = [self.add(ask) for ask in asks]
        served = self.drain()
        return [served[request_id] for request_id in ids]

    def one(self, ask: Ask) -> Served:
        return self.serve([ask])[0]

    def settle(self, steps: int = 200) -> None:
        """Let copies and writes under way end, as an idle engine's loop does."""
        import time

        for _ in range(steps):
            if not self.core.scheduler.connector.has_pending_push_work():
                return
            self.engine.step()
            self.core.step()
            time.sleep(0.005)

    def find_disk(self, beside: Ask) -> None:
        """Serve another request until the engine has read what its disk holds: it does not wait for that,
        takes what it has not found yet for a miss, and writes nothing before."""
        import time

        store = self.tiers._offload._disk.store
        for _ in range(600):
            if not store._scanning:
                return
            self.one(beside)
            time.sleep(0.05)
        raise AssertionError("the disk was not read within half a minute")

    def reset(self) -> None:
        assert self.engine.reset_prefix_cache()

    def close(self) -> None:
        self.engine.engine_core.shutdown()
