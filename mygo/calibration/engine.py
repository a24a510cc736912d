"""One real vLLM in this process, that answers exactly or by a blend as it is told to.

The likelihood of a right answer is measured by making the engine say it: token by token, the probability that
the model gives it is noted, and it is said whatever the model would say. (vLLM's log probabilities of prompt
tokens would do, but for requests that take KV from a cache they are defined for what is computed only.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vllm import LLM, SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from mygo.blend.selection import Method, Repair
from mygo.calibration.groups import BIRTHS
from mygo.config import Config
from mygo.tree.keys import domain_salt, passage_tag
from mygo.types import Prompt, Reuse, SegmentSpan
from mygo.vllm_plugin import spans
from mygo.vllm_plugin.settings import ChunkSettings, engine_arguments

STEP_TOKENS = 2048
"""Nobody waits for a short answer here, and larger steps have less overhead."""
CHUNK_BYTES = 2**36
"""More than one group of questions takes; it is taken as it is filled."""
_SECRET = b"calibration"
_SAID = "mygo_said"


@dataclass(frozen=True, slots=True)
class Asked:
    prompt: Prompt
    repair: Repair | None = None
    """How its documents are reused; None: exactly."""
    said: tuple[int, ...] = ()
    """The answer that the engine is made to give; empty: its own."""
    max_tokens: int = 1
    """Of its own answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    token_ids: tuple[int, ...]
    cached_tokens: int
    """Of the prompt: on the device, or from chunks."""
    first: npt.NDArray[np.float32]
    """Log probabilities of the first token, of the whole vocabulary."""
    nats: float
    """Negative log likelihood of what it was made to say, per token; 0 if it spoke for itself."""


@dataclass(slots=True)
class _Heard:
    first: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    nats: dict[int, float] = field(default_factory=dict)
    """By place in the answer: a place may be computed more than once, and the last time counts."""


class BlendEngine:
    def __init__(self, config: Config, model: Path) -> None:
        """Needs VLLM_ENABLE_V1_MULTIPROCESSING=0 from before vLLM was imported."""
        self._heard: dict[int, _Heard] = {}
        settings = config.model
        chunks = ChunkSettings(host_bytes=CHUNK_BYTES, max_variants=BIRTHS, method=Method.DEVIATION.value)
        self._llm = LLM(
            str(model),
            skip_tokenizer_init=True,
            dtype=settings.dtype,
            enforce_eager=True,
            block_size=settings.block_tokens,
            max_model_len=settings.max_context_tokens,
            kv_cache_memory_bytes=settings.kv_cache_bytes,
            max_num_batched_tokens=STEP_TOKENS,
            max_num_seqs=settings.max_running,
            disable_log_stats=True,
            logits_processors=[_prompter(self._heard)],
            **engine_arguments(chunks=chunks),
        )

    def forget(self, *, chunks: bool) -> None:
        """All KV of the device, and of chunks, too, if asked for."""
        assert self._llm.reset_prefix_cache(reset_connector=chunks), "a request is still running"

    def close(self) -> None:
        """End it: a process has one engine with chunks at a time."""
        self._llm.llm_engine.engine_core.shutdown()

    def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        """All at once; answers in their order."""
        self._heard.clear()
        params = [self._params(number, each) for number, each in enumerate(asked)]
        prompts: list[Any] = [{"prompt_token_ids": each.prompt.token_ids} for each in asked]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [self._answer(number, output) for number, output in enumerate(outputs)]

    def _params(self, number: int, asked: Asked) -> Any:
        ours: dict[str, Any] = {"spans": spans.entries(_spans(asked.prompt))}
        if asked.repair is not None:
            repair = asked.repair
            ours["reuse"] = Reuse.BLEND.value
            ours["repair"] = {
                "share": repair.share,
                "floor_tokens": repair.floor_tokens,
                "method": repair.method.value,
            }
        extra: dict[str, Any] = {"kv_transfer_params": {"mygo": ours}}
        extra[_SAID] = [number, *asked.said]
        return SamplingParams(
            max_tokens=len(asked.said) or asked.max_tokens,
            temperature=0.0,
            ignore_eos=bool(asked.said),
            detokenize=False,
            extra_args=extra,
        )

    def _answer(self, number: int, output: Any) -> Answer:
        heard = self._heard[number]
        nats = list(heard.nats.values())
        return Answer(
            tuple(output.outputs[0].token_ids),
            int(output.num_cached_tokens or 0),
            heard.first,
            sum(nats) / len(nats) if nats else 0.0,
        )


def _prompter(heard: dict[int, _Heard]) -> type[AdapterLogitsProcessor]:
    """What notes how likely the first token is, and makes requests say what they are told to."""

    class Prompter(AdapterLogitsProcessor):  # type: ignore[misc]
        def is_argmax_invariant(self) -> bool:
            return False

        def new_req_logits_processor(self, params: SamplingParams) -> Any:
            number, *said = params.extra_args[_SAID]
            noted = heard.setdefault(number, _Heard())

            def say(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
                place = len(output_ids)
                if place >= max(1, len(said)):
                    return logits
                likely = torch.log_softmax(logits.float(), dim=-1)
                if place == 0:
                    noted.first = likely.cpu().numpy()
                if not said:
                    return logits
                token = said[place]
                noted.nats[place] = -float(likely[token])
                forced = torch.full_like(logits, -torch.inf)
                forced[token] = 0.0
                return forced

            return say

    return Prompter


def _spans(prompt: Prompt) -> tuple[SegmentSpan, ...]:
    return tuple(
        SegmentSpan(
            segment.key,
            step.end_tokens,
            domain_salt(_SECRET, segment.domain),
            ""
            if segment.passage is None
            else passage_tag(_SECRET, segment.passage.domain, segment.passage.content_hash),
        )
        for segment, step in zip(prompt.segments, prompt.path, strict=True)
    )
