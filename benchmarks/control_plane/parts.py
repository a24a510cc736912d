"""Microseconds of the parts of one request, each alone in this process, with the real objects."""

from __future__ import annotations

import asyncio
import pickle
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer

from benchmarks.control_plane import workload
from mygo.api import create_app
from mygo.api.chat import ChatRenderer
from mygo.api.record import Record
from mygo.api.schemas.base import parse_json
from mygo.api.schemas.chat import ChatBody
from mygo.api.service import Answer, AnswerHead, AnswerRequest, Service
from mygo.config import Config
from mygo.directory import Directory, Replica
from mygo.prompt import ChatTemplate, Message, PromptBuilder
from mygo.routing import ROUTERS, Reservations, RouteRequest, queue_s
from mygo.tree.keys import root_key
from mygo.types import (
    Candidate,
    ContentHash,
    DocId,
    DomainTag,
    GenerateRequest,
    Passage,
    PrefillStats,
    ProfileGrid,
    Prompt,
    RequestId,
    Residency,
    ResidencyEvent,
    Route,
    Sampling,
    ScoredPassage,
    SegmentSpan,
    TenantId,
    Tier,
    TokenDelta,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)

BATCHES = 9
BATCH_S = 0.05
PROFILE = ProfileGrid((0, 4096), (32, 1024), ((0.01, 0.3), (0.02, 0.4)))
DOMAIN = DomainTag("default")


def measure(config: Config, model_path: Path) -> dict[str, float]:
    """Part -> microseconds (median of batches). The parts overlap: the first contains others."""
    raw = workload.body(model_path).encode()
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    body = parse_json(ChatBody, raw)
    passages = [_passage(each.id, each.text) for each in body.documents or ()]
    builder = PromptBuilder(
        ChatTemplate.from_tokenizer(tokenizer),
        tokenizer,
        root_key(model=config.model.name, kv_dtype=config.model.dtype),
        max_context_tokens=config.model.max_context_tokens,
        system=config.prompt.system,
        after_documents=config.prompt.after_documents,
    )

    def build() -> Prompt:
        messages = [Message("user", body.messages[0].content[0].text)]
        return builder.documents_first(messages, passages, domain=DOMAIN, max_tokens=workload.TOKENS)

    prompt = build()
    deltas = _deltas(prompt)
    head = AnswerHead(prompt.token_ids, Route(WorkerId("w0"), 0.0, prompt.tokens), retrieval_s=0.0)

    def encode() -> None:
        renderer, record = ChatRenderer(body), Record(head, "retrieval", started_s=0.0)
        renderer.begin(record)
        for delta in deltas:
            record.add(delta)
            renderer.delta(delta)
        renderer.end(record)

    request = GenerateRequest(
        RequestId("request"),
        prompt.token_ids,
        tuple(SegmentSpan(step.key, step.end_tokens, "0" * 64) for step in prompt.path),
        Sampling(max_tokens=workload.TOKENS),
    )
    return {
        "HTTP face from body to last chunk": _face_us(config, raw, head, deltas),
        "parse and validate the body": _time_us(lambda: parse_json(ChatBody, raw)),
        "build the prompt, documents known": _time_us(build),
        "locate, route, reserve, announce": _time_us(_routing(config, prompt)),
        "encode 20 SSE chunks": _time_us(encode),
        "pickle and unpickle the request": _time_us(lambda: pickle.loads(pickle.dumps(request))),
        "pickle and unpickle 20 deltas": _time_us(
            lambda: [pickle.loads(pickle.dumps(each)) for each in deltas]
        ),
    }


def _time_us(call: Callable[[], object]) -> float:
    call()
    started = time.perf_counter()
    call()
    count = max(1, int(BATCH_S / max(time.perf_counter() - started, 1e-7)))
    batches: list[float] = []
    for _ in range(BATCHES):
        started = time.perf_counter()
        for _ in range(count):
            call()
        batches.append(1e6 * (time.perf_counter() - started) / count)
    return statistics.median(batches)


def _passage(name: str, text: str) -> ScoredPassage:
    return ScoredPassage(Passage(DocId(name), 0, text, ContentHash(name), domain=DOMAIN), 0.0)


def _deltas(prompt: Prompt) -> list[TokenDelta]:
    stats = PrefillStats({Tier.DEVICE: prompt.tokens}, queue_s=0.0, prefill_s=0.0)
    last = workload.TOKENS - 1
    return [
        TokenDelta(" word", (1000 + i,), "length" if i == last else None, stats if i == 0 else None)
        for i in range(workload.TOKENS)
    ]


def _routing(config: Config, prompt: Prompt) -> Callable[[], None]:
    """What the dispatcher does between a prompt and a worker, with two workers that hold it."""
    replica = _replica(prompt)
    router = ROUTERS[config.routing.policy](config.routing)
    reservations = Reservations()
    rng = random.Random(0)

    def route() -> None:
        now_s = time.time()
        path = prompt.path
        residency = replica.locate(path)
        candidates = [
            Candidate(
                worker=name,
                residency=residency.get(name, Residency()),
                queue_s=queue_s(info.profile, replica.load(name), reservations.backlog_s(name, now_s)),
                running=reservations.open_requests(name, now_s),
                profile=info.profile,
            )
            for name, info in replica.workers.items()
        ]
        asked = RouteRequest(prompt_tokens=prompt.tokens, text="", first_document=path[1].key)
        chosen = router.route(asked, candidates, rng, now_s)
        request = RequestId("request")
        reservations.reserve(request, chosen.worker, chosen.prefill_s, now_s)
        replica.expect(chosen.worker, path, request, now_s, 30.0, prefill_s=chosen.prefill_s)
        reservations.release(request, now_s)
        replica.started(request)
        reservations.finish(request)
        replica.settled(request)
        replica.announcements()

    return route


def _replica(prompt: Prompt) -> Replica:
    directory = Directory("benchmark")
    parents = [None, *(step.key for step in prompt.path)]
    held = tuple(
        ResidencyEvent(step.key, parent, step.start_tokens, step.end_tokens, step.end_tokens, complete=True)
        for step, parent in zip(prompt.path, parents, strict=False)
    )
    for name in (WorkerId("w0"), WorkerId("w1")):
        directory.join(WorkerInfo(name, "epoch", "model", 32, 100_000, 8192, PROFILE))
        directory.apply(WorkerReport(name, "epoch", 0, held, WorkerLoad(), snapshot=True))
    replica = Replica()
    replica.follow(directory.changes_since(None))
    return replica


class _Deltas:
    """A token stream that is there already."""

    def __init__(self, deltas: list[TokenDelta]) -> None:
        self._left = iter(deltas)

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        try:
            return next(self._left)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        return


class _Ready:
    """Of the service, only what a chat asks: an answer that is there already."""

    def __init__(self, head: AnswerHead, deltas: list[TokenDelta]) -> None:
        self._head = head
        self._deltas = deltas

    async def answer(self, tenant: TenantId, request: AnswerRequest) -> Answer:
        return Answer(self._head, _Deltas(self._deltas))


def _face_us(config: Config, raw: bytes, head: AnswerHead, deltas: list[TokenDelta]) -> float:
    """The whole HTTP face as an ASGI application: edge, routing, parsing, rendering."""
    app = create_app(config, cast(Service, _Ready(head, deltas)))
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(_checked_post(app, raw))
        return _time_us(lambda: loop.run_until_complete(_post(app, raw)))
    finally:
        loop.close()


async def _post(app: Any, raw: bytes) -> bytes:
    received = False
    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received:
            await asyncio.get_running_loop().create_future()  # the client stays
        received = True
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return b"".join(sent)


async def _checked_post(app: Any, raw: bytes) -> None:
    workload.check(await _post(app, raw))
