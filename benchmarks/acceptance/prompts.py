"""Where documents lie in the prompts that a cluster builds, for accounting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer

from benchmarks.acceptance.accounting import Served, Touch
from benchmarks.cluster import Cluster
from mygo import config as configs
from mygo import models
from mygo.prompt import ChatTemplate, Message, PromptBuilder
from mygo.tree.keys import root_key
from mygo.types import ContentHash, DocId, DomainTag, Passage, ScoredPassage, SegmentKind


class Layouts:
    """Builds the same prompts as the cluster's ingress; every answer's prompt ids are compared with it."""

    def __init__(self, cluster: Cluster) -> None:
        config = configs.parse(cluster.config)
        tokenizer = AutoTokenizer.from_pretrained(
            models.resolve(config.model.source, config.cluster.cache_dir)
        )
        self.block_tokens = config.model.block_tokens
        self._max_tokens = config.prompt.default_max_tokens
        self._builder = PromptBuilder(
            ChatTemplate.from_tokenizer(tokenizer),
            tokenizer,
            root_key(model=config.model.name, kv_dtype=config.model.dtype),
            max_context_tokens=config.model.max_context_tokens,
            system=config.prompt.system,
            after_documents=config.prompt.after_documents,
        )

    def served(self, documents: Sequence[str], question: str, answer: dict[str, Any]) -> Served:
        """The account of one answer of ``Cluster.chat``.

        Raises RuntimeError if the prompt was not the one that these documents should have given.
        """
        passages = [
            ScoredPassage(Passage(DocId(str(i)), 0, text, ContentHash(text), domain=DomainTag("alice")), 0.0)
            for i, text in enumerate(documents)
        ]
        prompt = self._builder.documents_first(
            [Message("user", question)], passages, domain=DomainTag("alice"), max_tokens=self._max_tokens
        )
        if prompt.token_ids != answer["prompt_token_ids"]:
            raise RuntimeError(f"the cluster built another prompt for {question!r} than its own builder")
        touches: list[Touch] = []
        path: tuple[str, ...] = ()
        for segment, step in zip(prompt.segments, prompt.path, strict=True):
            if segment.kind is SegmentKind.DOCUMENT and segment.passage is not None:
                path = (*path, segment.passage.content_hash)
                touches.append(Touch(path, step.start_tokens, step.end_tokens))
        account = answer["mygo"]
        cached_tokens = sum(account["usage"]["cached_tokens"].values())
        return Served(account["worker"], cached_tokens, tuple(touches))
