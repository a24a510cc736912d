"""What a worker needs of an inference engine, whichever it is: real vLLM, or an emulated one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from mygo.types import GenerateRequest, TokenDelta


class Engine(Protocol):
    """What a worker needs of an inference engine. ``serve/vllm_engine.py`` adapts vLLM to it."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        ...

    @property
    def dead(self) -> bool:
        """True once it can no longer serve; it does not recover."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        """Stream a completion. Closing the iterator aborts the request.

        Raises BadRequest if the prompt does not fit, Unavailable if the engine is not serving.
        """
        ...

    async def reset_cache(self) -> None:
        """Forget all cached KV; nothing may be running."""
        ...
