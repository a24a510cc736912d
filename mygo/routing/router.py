"""What every router is asked and must keep to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from mygo.errors import Unavailable
from mygo.routing.predict import predict
from mygo.types import Candidate, PathStep, Route


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What routers may look at; each uses its own part."""

    prompt_tokens: int
    text: str
    """The prompt as text, for routers that know no tokens."""
    first_document: str
    """Names the first document (or, without one, the prompt's first segment)."""
    shared_tokens: int = 0
    """Leading tokens that this prompt shares with nearly all others: the system prompt's."""
    reusable: tuple[PathStep, ...] = ()
    """The path without its last segment, which no other request will bring."""


class Router(Protocol):
    needs_all_workers: ClassVar[bool]
    """False if workers that hold nothing of the prompt matter only by how busy they are, so that a few
    of the least busy may stand for all of them."""

    def route(
        self, request: RouteRequest, workers: Sequence[Candidate], rng: random.Random, now_s: float
    ) -> Route:
        """Pick one of the accepting ``workers``; these may differ from call to call.

        Raises Unavailable if none accepts. All randomness comes from ``rng``.
        """
        ...


def accepting(workers: Sequence[Candidate]) -> list[Candidate]:
    """The workers that take requests now; raises Unavailable if there is none."""
    able = [worker for worker in workers if worker.accepting]
    if not able:
        raise Unavailable(
            "every worker is at its limit of open requests; "
            "retry shortly, or raise workers.replicas or workers.max_ongoing"
            if workers
            else "no worker is up; retry shortly"
        )
    return able


def route_to(candidate: Candidate, prompt_tokens: int) -> Route:
    """The route to this worker: what it holds of the prompt, and the predicted seconds there."""
    own = predict(candidate, prompt_tokens)
    return Route(
        worker=candidate.worker,
        predicted_s=candidate.queue_s + own.load_s + own.prefill_s,
        predicted_cached_tokens=own.cached_tokens,
        queue_s=candidate.queue_s,
        load_s=own.load_s,
        prefill_s=own.prefill_s,
    )
