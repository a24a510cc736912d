"""A trace's requests as real prompts: texts of the trace's lengths, laid out once for all systems."""

from __future__ import annotations

import zlib
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.synthesis import Synthesizer
from benchmarks.systems.system import Query
from mygo.config import ModelConfig, PromptConfig
from mygo.errors import ConfigError
from mygo.prompt import ChatTemplate, Message, PromptBuilder
from mygo.tree.keys import root_key
from mygo.types import ContentHash, DocId, DomainTag, Passage, ScoredPassage
from mygo.workloads.trace import Trace, TraceRequest


class Layout:
    """Builds queries with MyGO's own prompt builder, so that every system gets the very same token ids."""

    def __init__(self, model: ModelConfig, model_path: Path, seed: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        prompt = PromptConfig()
        self._builder = PromptBuilder(
            ChatTemplate.from_tokenizer(tokenizer),
            tokenizer,
            root_key(model=model.name, kv_dtype=model.dtype),
            max_context_tokens=model.max_context_tokens,
            system=prompt.system,
            after_documents=prompt.after_documents,
        )
        self._max_context_tokens = model.max_context_tokens
        self._model_path = model_path
        self._seed = seed

    def check(self, trace: Trace) -> None:
        """Raises ConfigError if a prompt cannot fit the model's context, before any text is made for it."""
        for request in trace.requests:
            if trace.prompt_tokens(request) > self._max_context_tokens:
                raise self._too_long(trace, request)

    def queries(self, trace: Trace, edition: str, *, output_tokens: int | None) -> list[Query]:
        """One query per request, in order.

        ``edition`` names this copy of the trace's texts: two editions share no text at all, so that one
        can be served after the other by the same servers as if nothing had been before. ``output_tokens``
        bounds the length of answers. Raises ConfigError if a prompt does not fit the model's context.
        """
        texts = Synthesizer(self._model_path, seed=zlib.crc32(f"{self._seed}/{edition}".encode()))
        return [self._query(trace, request, texts, output_tokens) for request in trace.requests]

    def _query(self, trace: Trace, request: TraceRequest, texts: Synthesizer, bound: int | None) -> Query:
        words = texts.words(trace, request)
        turns = len(words.history)
        messages = (
            ("system", words.system),
            # turns of a conversation, the last of them an answer
            *(
                ("assistant" if (turns - index) % 2 else "user", each)
                for index, each in enumerate(words.history)
            ),
            ("user", words.question),
        )
        documents = tuple(zip(request.documents, words.documents, strict=True))
        domain = DomainTag(request.tenant)
        output_tokens = request.output_tokens if bound is None else min(bound, request.output_tokens)
        prompt = self._builder.documents_first(
            [Message(role, each) for role, each in messages],
            [
                ScoredPassage(Passage(DocId(name), 0, each, ContentHash(each), domain=domain), 0.0)
                for name, each in documents
            ],
            domain=domain,
            max_tokens=output_tokens,
        )
        if prompt.dropped:
            raise self._too_long(trace, request)
        return Query(
            number=request.number,
            arrival_s=request.arrival_s,
            tenant=request.tenant,
            messages=messages,
            documents=documents,
            prompt=prompt,
            output_tokens=max(1, output_tokens),
        )

    def _too_long(self, trace: Trace, request: TraceRequest) -> ConfigError:
        return ConfigError(
            f"{trace.name}: request {request.number} does not fit the model's context of "
            f"{self._max_context_tokens} tokens with all its documents: lower --token-scale"
        )
