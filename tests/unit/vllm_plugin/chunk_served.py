"""An engine of vLLM's real scheduler without a model, that keeps and reuses three documents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from mygo.blend.guard import Guard
from mygo.blend.variants import Variant
from mygo.vllm_plugin.chunks.quality import Quality
from mygo.vllm_plugin.settings import ChunkSettings

DOCUMENT_TOKENS = 16
CHUNKS = ChunkSettings(host_bytes=2**24, repair_share=0.25, floor_tokens=1)
SYSTEM = [3] * 5
QUESTION = [4] * 3
DOCUMENTS = {name: [10 + 16 * i + j for j in range(DOCUMENT_TOKENS)] for i, name in enumerate("abc")}


def name_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Served:
    """An engine in which documents a and b were computed one behind the other, and kept."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch, system: Sequence[int] = SYSTEM) -> None:
        self.engine = engine
        self.system = system
        self.told: dict[str, Any] = {}
        self._count = 0
        connector = engine.connector
        finished = connector.request_finished_all_groups

        def finish(request: Any, blocks: Any) -> Any:
            held, told = finished(request, blocks)
            mygo = (told or {}).get("mygo", {})
            self.told[request.request_id] = mygo.get("chunks", {}) | {"ticket": mygo.get("ticket")}
            return held, told

        monkeypatch.setattr(connector, "request_finished_all_groups", finish)
        self.ask("ab", reuse="exact")
        self.forget_device()

    @property
    def quality(self) -> Quality:
        quality: Quality = self.engine.connector._chunks._quality
        return quality

    @property
    def guard(self) -> Guard:
        assert self.quality._guard is not None
        return self.quality._guard

    def held(self, name: str) -> list[Variant]:
        catalog = self.engine.connector._chunks._holdings._catalog
        return [held.variant for held in catalog.held(name_of(name), {"salt"})]

    def forget_device(self) -> None:
        assert self.engine.scheduler.reset_prefix_cache()

    def add(
        self,
        request_id: str,
        names: str,
        question: Sequence[int] = QUESTION,
        reuse: str = "blend",
        **more: Any,
    ) -> Any:
        """A request about these documents, which waits from now on."""
        ids, path = list(self.system), [(name_of("system"), len(self.system), "salt", "")]
        for name in names:
            ids += DOCUMENTS[name]
            path.append((name_of(f"{path[-1][0]} {name}"), len(ids), "salt", name_of(name)))
        ids += question
        path.append((name_of(f"{path[-1][0]} {question}"), len(ids), "salt", ""))
        return self.engine.add(request_id, ids, spans=path, reuse=reuse, **more)

    def ask(self, names: str, question: Sequence[int] = QUESTION, **more: Any) -> Any:
        """What is told of chunks with the answer; ``computed`` prompt tokens beside it."""
        self._count += 1
        before = self.engine.computed_tokens
        self.add(str(self._count), names, question, **more)
        self.engine.drain()
        return self.told[str(self._count)] | {"computed": self.engine.computed_tokens - before}
