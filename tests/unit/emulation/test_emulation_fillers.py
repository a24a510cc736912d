"""Copies behind neutral documents in vLLM's real scheduler: what is wanted and kept, and who may use it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tier_engines import BLOCK, H100, drain

from mygo.emulation.engine import EmulatedCore, StepOutcome
from mygo.emulation.settings import EngineSettings
from mygo.tree.keys import narrow, passage_tag, root_key, segment_key
from mygo.types import (
    PUBLIC,
    ChunkUse,
    ContentHash,
    DomainTag,
    GenerateRequest,
    RequestId,
    Reuse,
    Sampling,
    SegmentSpan,
    WorkerId,
)
from mygo.vllm_plugin.filling import FillerNews, filling
from mygo.vllm_plugin.settings import ChunkSettings

TOKENS = 1024
NEUTRAL = tuple(tuple(random.Random(f"neutral {each}").choices(range(32_000), k=100)) for each in "12")


def _ids(name: str, tokens: int = TOKENS) -> list[int]:
    return random.Random(name).choices(range(32_000), k=tokens)


class Served:
    """An engine, and the prompts that it is asked. A document's domain is what its name begins with, up to a
    slash; else it is public."""

    def __init__(self, fillers: str = "1") -> None:
        chunks = ChunkSettings(host_bytes=200 * TOKENS * H100.kv_bytes_per_token, fillers=fillers)
        self._core = EmulatedCore(EngineSettings(65_536, BLOCK, chunks=chunks), H100, WorkerId("w"))
        self._count = 0

    def request(self, documents: Sequence[str], reuse: Reuse = Reuse.BLEND) -> GenerateRequest:
        self._count += 1
        domain, key = PUBLIC, root_key(model="m", kv_dtype="none")
        token_ids, spans = _ids("system", 100), []
        spans.append(SegmentSpan(segment_key(key, domain, token_ids), 100, domain))
        for name in documents:
            own = DomainTag(name.split("/")[0]) if "/" in name else PUBLIC
            domain = narrow(domain, own)
            token_ids += _ids(name)
            key = segment_key(spans[-1].key, domain, _ids(name))
            tag = passage_tag(b"", own, ContentHash(name))
            spans.append(SegmentSpan(key, len(token_ids), domain, tag, own))
        question = _ids(f"question {self._count}", 50)
        token_ids += question
        key = segment_key(spans[-1].key, domain, question)
        spans.append(SegmentSpan(key, len(token_ids), domain))
        name_of = RequestId(f"r{self._count}")
        return GenerateRequest(name_of, token_ids, tuple(spans), Sampling(max_tokens=2), reuse=reuse)

    def serve(self, asked: GenerateRequest) -> tuple[ChunkUse, FillerNews]:
        outcomes = self._run(asked)
        chunks = outcomes[-1].chunks[asked.request_id]
        return chunks, outcomes[-1].fillers.get(asked.request_id, FillerNews())

    def ask(self, *documents: str, reuse: Reuse = Reuse.BLEND) -> tuple[ChunkUse, FillerNews]:
        return self.serve(self.request(documents, reuse))

    def fill(self, asked: GenerateRequest, number: int) -> int:
        """Tokens computed for it."""
        self._count += 1
        request = filling(asked, number, NEUTRAL, RequestId(f"filler-{self._count}"))
        return sum(each.computed_tokens for each in self._run(request))

    def _run(self, asked: GenerateRequest) -> list[StepOutcome]:
        self._core.add(asked, 10.0 * self._count)
        return drain(self._core)


def test_document_that_only_came_first_is_wanted_from_its_second_use_on_and_then_reused_elsewhere() -> None:
    served = Served()
    assert served.ask("a") == (ChunkUse(0, 0, approximate=False), FillerNews())
    asked = served.request(["a"])
    _, news = served.serve(asked)
    ((number, worth),) = news.wanted
    assert number == 1 and 0 < worth < 2
    assert served.fill(asked, number) >= TOKENS + 2 * 100, "all of it is computed, and counted"
    use, news = served.ask("b", "a")
    assert use.approximate and use.loaded_tokens + use.repaired_tokens == TOKENS
    assert news.used_tokens == TOKENS


def test_nothing_is_wanted_when_a_prompt_left_a_copy_that_all_may_use() -> None:
    served = Served()
    served.ask("b", "a")
    for _ in range(3):
        _, news = served.ask("a")
        assert not news.wanted


def test_public_document_behind_private_ones_gets_a_copy_for_everybody() -> None:
    served = Served()
    served.ask("t1/x", "a")
    asked = served.request(["t1/y", "a"])
    _, news = served.serve(asked)
    assert [number for number, _ in news.wanted] == [2]
    served.fill(asked, 2)
    use, news = served.ask("t2/z", "a")
    assert use.loaded_tokens and news.used_tokens == TOKENS and not news.wanted


def test_private_documents_copy_is_for_those_alone_who_may_read_it() -> None:
    served = Served()
    served.ask("t1/x")
    asked = served.request(["t1/x"])
    _, news = served.serve(asked)
    served.fill(asked, news.wanted[0][0])
    stranger = served.request(["b", "t1/x"])
    # a prober that knows the text has a document of its own, under another tag, or at best the same tag
    spans = [
        SegmentSpan(span.key, span.end_tokens, "t2", span.tag, "t2") if span.tag or index == 3 else span
        for index, span in enumerate(stranger.spans)
    ]
    stranger = GenerateRequest(
        stranger.request_id, stranger.token_ids, tuple(spans), stranger.sampling, reuse=Reuse.BLEND
    )
    assert served.serve(stranger)[0].loaded_tokens == 0
    use, _ = served.ask("c", "t1/x")
    assert use.loaded_tokens, "its own tenant has it"
    use, _ = served.ask("t2/c", "t1/x")
    assert use.loaded_tokens, "and who may read both"


def test_nothing_is_wanted_by_exact_requests_nor_where_it_is_off() -> None:
    served = Served()
    for _ in range(3):
        _, news = served.ask("a", reuse=Reuse.EXACT)
        assert news == FillerNews()
    served = Served(fillers="")
    for _ in range(3):
        _, news = served.ask("a")
        assert news == FillerNews()


def test_document_is_computed_whole_whatever_an_earlier_attempt_has_left() -> None:
    """Scenario: a request interrupts a copy that is being made. Blocks of the document stay on the device,
    and a second attempt that found them would have nothing to keep."""
    served = Served()
    asked = served.request(["a"])
    served.serve(asked)
    first, second = served.fill(asked, 1), served.fill(asked, 1)
    assert first > second >= TOKENS, "the neutral documents are there, the document is not"
