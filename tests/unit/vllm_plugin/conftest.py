"""vLLM's real scheduler with the plugin in it, and no model: steps take microseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mygo.vllm_plugin.settings import TierSettings

BLOCK_TOKENS = 4
STEP_TOKENS = 16
CONTEXT_TOKENS = 256


class ScheduledEngine:
    """An engine core whose model says token 7, whatever it is asked."""

    def __init__(self, vllm_config: Any, blocks: int) -> None:
        import torch
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        vllm_config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=8, dtype=torch.float32)
        self.scheduler = vllm_config.scheduler_config.get_scheduler_cls()(
            vllm_config=vllm_config,
            kv_cache_config=KVCacheConfig(
                num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
            ),
            structured_output_manager=StructuredOutputManager(vllm_config),
            block_size=BLOCK_TOKENS,
            hash_block_size=BLOCK_TOKENS,
            log_stats=True,
        )
        hash_function = get_hash_fn_by_name("sha256_cbor")
        init_none_hash(hash_function)
        self._hasher = get_request_block_hasher(BLOCK_TOKENS, hash_function)
        self.connector = self.scheduler.connector
        self.computed_tokens = 0
        """Prompt tokens that were scheduled, over all requests and steps."""

    def add(
        self,
        request_id: str,
        token_ids: Sequence[int],
        *,
        spans: Sequence[tuple[str, int, str]] | None = None,
        answer_domain: str | None = None,
        max_tokens: int = 1,
        stop_token_ids: Sequence[int] = (),
        priority: int = 0,
        **more: Any,
    ) -> Any:
        """Enqueue a request; returns vLLM's Request. ``more`` goes with its segment map."""
        from vllm import SamplingParams
        from vllm.v1.request import Request

        segments = [list(span) for span in spans or ()]
        params = {"mygo": {"spans": segments, "answer_domain": answer_domain} | more} if spans else None
        request = Request(
            request_id=request_id,
            prompt_token_ids=list(token_ids),
            sampling_params=SamplingParams(
                max_tokens=max_tokens,
                stop_token_ids=list(stop_token_ids),
                extra_args={"kv_transfer_params": params} if params else None,
            ),
            pooling_params=None,
            priority=priority,
            cache_salt=spans[0][2] if spans else None,
            block_hasher=self._hasher,
        )
        self.scheduler.add_request(request)
        return request

    def step(self) -> dict[str, int]:
        """One engine step; returns the tokens computed per request id."""
        from vllm.v1.outputs import ModelRunnerOutput

        output = self.scheduler.schedule()
        scheduled = dict(output.num_scheduled_tokens)
        sampled = []
        for request_id, tokens in scheduled.items():
            request = self.scheduler.requests[request_id]
            sampled.append([7] if request.num_computed_tokens >= request.num_tokens else [])
            self.computed_tokens += tokens if request.num_output_tokens == 0 else 0
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=list(scheduled),
                req_id_to_index={request_id: i for i, request_id in enumerate(scheduled)},
                sampled_token_ids=sampled,
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )
        return scheduled

    def abort(self, request_id: str) -> None:
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)

    def drain(self, limit_steps: int = 2000) -> int:
        """Step until nothing is left; returns the number of steps. Fails instead of hanging."""
        for steps in range(limit_steps):
            if not self.scheduler.has_requests():
                return steps
            self.step()
        raise AssertionError(f"still {len(self.scheduler.requests)} requests after {limit_steps} steps")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a configuration and no weights."""
    folder = tmp_path_factory.mktemp("tiny-model")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": 8,
                "intermediate_size": 16,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "num_hidden_layers": 1,
                "vocab_size": 64,
                "max_position_embeddings": CONTEXT_TOKENS,
                "torch_dtype": "float32",
            }
        )
    )
    return folder


@pytest.fixture(scope="session")
def engine_factory(tiny_model: Path) -> Callable[..., ScheduledEngine]:
    """Builds a ScheduledEngine: ``engine_factory(blocks=..., socket_path=..., tiers=...)``."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    from mygo.vllm_plugin.settings import engine_arguments

    def build(
        *,
        blocks: int = 200,
        socket_path: str | None = None,
        sibling_hold: bool = True,
        tiers: TierSettings | None = None,
        max_running: int = 8,
        **overrides: Any,
    ) -> ScheduledEngine:
        config = AsyncEngineArgs(
            model=str(tiny_model),
            skip_tokenizer_init=True,
            max_model_len=CONTEXT_TOKENS,
            max_num_batched_tokens=STEP_TOKENS,
            max_num_seqs=max_running,
            enforce_eager=True,
            kv_cache_memory_bytes=2**20,
            **{
                "long_prefill_token_threshold": STEP_TOKENS - 2,
                **engine_arguments(socket_path, sibling_hold=sibling_hold, tiers=tiers),
                **overrides,
            },
        ).create_engine_config()
        return ScheduledEngine(config, blocks)

    return build
