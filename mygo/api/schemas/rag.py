"""Fields that chat, responses and search share: filters, ranking, document order, reuse."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mygo.api.schemas.base import Part, text_parts
from mygo.errors import BadRequest
from mygo.filters import Comparison, Compound, Filter

_MAX_FILTER_DEPTH = 8
_MOST_FILTER_VALUES = 512
_LEAST_WEIGHT = 1e-6
"""Above 0: less is lost in rounding."""


class TextPart(Part):
    type: Literal["text", "input_text", "output_text"]
    text: str


# A body of the largest allowed size can hold a million of these, whose validation takes a minute.
MAX_MESSAGES = 4096
MAX_PARTS = 1024

# the bound is the list's own: behind the validator it would be looked at when all parts are validated
TextParts = Annotated[list[TextPart], Field(max_length=MAX_PARTS), BeforeValidator(text_parts)]
"""Message content; a string counts as one part, null as none."""


def joined(parts: list[TextPart]) -> str:
    return "\n".join(part.text for part in parts)


class FilterPart(Part):
    """OpenAI's ComparisonFilter and CompoundFilter, told apart by ``type``."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"]
    key: str | None = None
    value: object = None
    filters: list[FilterPart] | None = Field(default=None, max_length=64)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.type in ("and", "or"):
            for name in ("key", "value"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"a filter of type {self.type!r} takes no {name}: compare in its filters instead"
                    )
            if not self.filters:
                raise ValueError(f"a filter of type {self.type!r} needs a non-empty list of filters")
        elif not self.key:
            raise ValueError(f"a filter of type {self.type!r} needs a key")
        elif self.filters is not None:
            raise ValueError(
                f"a filter of type {self.type!r} takes no filters: remove them, or combine with 'and' or 'or'"
            )
        elif self.type in ("in", "nin"):
            if not isinstance(self.value, list) or not all(is_scalar(each) for each in self.value):
                raise ValueError(
                    f"a filter of type {self.type!r} needs a list of strings or numbers as value"
                )
        elif not is_scalar(self.value):
            raise ValueError(f"a filter of type {self.type!r} needs a string, number or boolean as value")
        return self

    @property
    def values(self) -> int:
        """That a file is compared with; an empty list counts, too: to look at it takes as long."""
        if self.type in ("and", "or"):
            return sum(part.values for part in self.filters or ())
        return max(1, len(self.value)) if isinstance(self.value, list) else 1

    def to_filter(self, depth: int = 1) -> Filter:
        if depth == 1 and self.values > _MOST_FILTER_VALUES:
            raise BadRequest(
                f"filters compare with {self.values} values, at most {_MOST_FILTER_VALUES} are taken: "
                "give the files an attribute that says the same in fewer",
                param="filters",
            )
        if depth > _MAX_FILTER_DEPTH:
            raise BadRequest(
                f"filters are nested deeper than {_MAX_FILTER_DEPTH}: flatten them", param="filters"
            )
        if self.type == "and" or self.type == "or":
            return Compound(self.type, tuple(part.to_filter(depth + 1) for part in self.filters or ()))
        value = tuple(self.value) if isinstance(self.value, list) else self.value
        return Comparison(self.key or "", self.type, value)  # type: ignore[arg-type]


def is_scalar(value: object) -> bool:
    """Text, a boolean, or a number that JSON can hold: NaN and Infinity could not be sent back."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


class HybridSearch(Part):
    """Weights of reciprocal rank fusion."""

    embedding_weight: float = Field(default=1.0, ge=0, le=1e6)
    text_weight: float = Field(default=1.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if not self.embedding_weight and not self.text_weight:
            raise ValueError("one of embedding_weight and text_weight must be above 0")
        for name, weight in (("embedding_weight", self.embedding_weight), ("text_weight", self.text_weight)):
            if 0 < weight < _LEAST_WEIGHT:
                raise ValueError(f"{name} is {weight:g}: give 0 or at least {_LEAST_WEIGHT:g}")
        return self


class RankingOptions(Part):
    ranker: str | None = None
    """`none` leaves out the deployment's reranker, if it has one; anything else changes nothing."""
    score_threshold: float | None = Field(default=None, ge=-1, le=1)
    hybrid_search: HybridSearch | None = None


ReuseChoice = Literal["exact", "blend"] | None
DocumentOrder = Literal["retrieval", "cache"] | None

ENGINE_FIELDS = {
    "cache_salt": "sharing domains are set by the server; remove it",
    "kv_transfer_params": "the server decides what KV is reused; remove it",
    "prompt_token_ids": "send messages; the server builds the prompt",
    "priority": "requests are served in order; remove it",
    "chat_template": "the served model's own template is used; remove it",
    "chat_template_kwargs": "the served model's own template is used as it is; remove it",
    "guided_json": "constrained decoding is not offered; remove it",
    "guided_regex": "constrained decoding is not offered; remove it",
    "guided_choice": "constrained decoding is not offered; remove it",
    "structured_outputs": "constrained decoding is not offered; remove it",
    "lora_request": "adapters are not offered; remove it",
    "min_p": "use top_p",
    "min_tokens": "use ignore_eos with max_tokens for a fixed length",
    "repetition_penalty": "use presence_penalty or frequency_penalty",
    "length_penalty": "beam search is not offered; remove it",
    "use_beam_search": "beam search is not offered; remove it",
    "stop_token_ids": "use stop",
    "best_of": "one answer is generated per request; remove it",
    "echo": "the prompt is never echoed; return_token_ids shows its ids",
    "prompt_logprobs": "logprobs are given for the answer only; remove it",
    "add_generation_prompt": "the answer is always the assistant's; remove it",
    "continue_final_message": "the last message must be the user's",
}
"""Engine-level fields of vLLM clients that would change the answer: field -> what to do."""

ENGINE_NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "add_generation_prompt": (True,),
    "priority": (0,),
}

IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "parallel_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "reasoning_effort",
        "verbosity",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "include_reasoning",
    }
)
"""Fields that change nothing that MyGO does."""
