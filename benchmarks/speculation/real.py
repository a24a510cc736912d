"""Speculation on a real engine behind the real HTTP path: the same question of two tenants, one in stages.

Each tenant has its own copy of the documents, so that neither's prompt is cached for the other.
"""

from __future__ import annotations

import logging
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from openai import OpenAI

from benchmarks.cluster import free_port
from benchmarks.speculation import STAGES
from mygo import config as configs
from mygo.cli.python_docs import write_python_docs
from mygo.config import Config
from mygo.serve import main as server

READY_S = 900.0
WARMUP = 5
"""Searches of each length by either tenant, from which the gate learns. Their prompt is cached, so they take
little more."""
TOP_K = 4
FILES = 16
TENANTS = ("sk-one", "sk-two")
ANSWER_TOKENS = 8
QUESTION_CHARS = 200

Tell = Callable[[str], None]


@dataclass
class Pairs:
    """Questions that both tenants asked."""

    share: float
    delay_s: float
    off_s: list[float] = field(default_factory=list)
    """Seconds to the first token of who saw the final result alone."""
    on_s: list[float] = field(default_factory=list)
    left_s: list[float] = field(default_factory=list)
    """What was left of the search when it first showed the final documents."""
    outcomes: list[str] = field(default_factory=list)
    differing: int = 0
    """Pairs whose answers were not the same, token for token."""

    @property
    def hidden_share(self) -> float:
        return float(np.mean(np.subtract(self.off_s, self.on_s)) / np.mean(self.left_s))

    def interval(self, samples: int = 2_000) -> tuple[float, float]:
        """95 %, of ``hidden_share``; pairs are resampled."""
        picks = np.random.default_rng(0).integers(0, len(self.on_s), size=(samples, len(self.on_s)))
        fell_s, left_s = np.subtract(self.off_s, self.on_s), np.asarray(self.left_s)
        low, high = np.percentile(fell_s[picks].mean(axis=1) / left_s[picks].mean(axis=1), [2.5, 97.5])
        return float(low), float(high)


def measure(shares: list[float], pairs: int, tell: Tell) -> dict[str, Any]:
    """Start a cluster of one worker with the demo model, ingest, ask."""
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="mygo-speculation-") as folder:
        config = configs.parse(
            {
                "cluster": {"data_dir": f"{folder}/data"},
                "http": {"port": free_port(), "api_keys": {key: key.removeprefix("sk-") for key in TENANTS}},
                "workers": {"replicas": 1},
                # answers must be the same, token for token: bfloat16's depend on how a prompt is cut
                "model": {"dtype": "float32"},
                "cache": {"host_bytes": 0},
                "retrieval": {
                    "shards": 1,
                    "top_k": TOP_K,
                    "timeout_s": 120.0,
                    "recent_results": 0,
                    "stage_s": 1e-9,  # as many stages as there are; how long they take is declared
                    "approximate_from_vectors": 20,
                },
            }
        )
        # replicas import this package too, wherever Ray starts them
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        server.prepare_environment(config)
        return _served(config, Path(folder), shares, pairs, tell)


def _served(config: Config, folder: Path, shares: list[float], pairs: int, tell: Tell) -> dict[str, Any]:
    import ray
    from ray import serve

    from benchmarks.speculation.delayed import DelayedShard  # Ray reads its environment when it is imported
    from mygo.serve import app

    paths = app.resolve_models(config)
    server.start(config)
    try:
        tell("starting a cluster with one worker")
        serve.run(app.build(config, paths, shard=DelayedShard), name=config.cluster.name, route_prefix="/")
        _wait_ready(config)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # Ray has set it to say each request
        shard = serve.get_deployment_handle("shard-0", config.cluster.name)
        asker = _Asker(config, lambda delay_s, is_staged: shard.declare.remote(delay_s, is_staged).result())
        tell("ingesting documents")
        asker.ingest(folder / "docs")
        asker.wait_for_stages()
        cold_s = statistics.median(asker.ask(question, 0, 0.0, True)[0] for question in asker.questions(5))
        tell(f"a cold prompt takes {cold_s:.2f} s")
        rounds = [asker.pairs(share, share * cold_s, pairs, tell) for share in shares]
        return {
            "cold_s": cold_s,
            "pairs": [
                asdict(each) | {"hidden_share": each.hidden_share, "interval": each.interval()}
                for each in rounds
            ],
        }
    finally:
        serve.shutdown()
        ray.shutdown()


class _Asker:
    def __init__(self, config: Config, declare: Callable[[float, bool], None]) -> None:
        self._model = config.model.name
        url = f"http://127.0.0.1:{config.http.port}/v1"
        self._clients = [OpenAI(base_url=url, api_key=key, timeout=300.0, max_retries=0) for key in TENANTS]
        self._declare = declare
        self._rng = random.Random(0)
        self._texts: list[str] = []
        self._stores: list[str] = []

    def ingest(self, folder: Path) -> None:
        paths = self._rng.sample(write_python_docs(folder), FILES)
        self._texts = [path.read_text() for path in paths]
        for client in self._clients:
            store = client.vector_stores.create(name="docs").id
            self._stores.append(store)
            for path in paths:
                client.vector_stores.files.upload_and_poll(
                    vector_store_id=store, file=path, poll_interval_ms=100
                )

    def wait_for_stages(self) -> None:
        """Until the shard has built the index that shows them."""
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            for tenant in range(len(TENANTS)):
                # stages that follow one another at once may be merged on their way
                _, answer = self.ask(self._texts[0][:QUESTION_CHARS], tenant, 0.5, True)
            if answer["mygo"]["overlap"]["stages"] == STAGES:
                return
        raise RuntimeError(f"searches have no {STAGES} stages after {READY_S:g} s")

    def questions(self, count: int) -> list[str]:
        """Out of the documents' own words, so that their passages are what is found."""
        found = []
        for text in self._rng.choices(self._texts, k=count):
            start = self._rng.randrange(max(1, len(text) - QUESTION_CHARS))
            found.append("What does this mean: " + text[start : start + QUESTION_CHARS])
        return found

    def ask(
        self, question: str, tenant: int, delay_s: float, is_staged: bool
    ) -> tuple[float, dict[str, Any]]:
        """(seconds to the first token, the whole answer)."""
        self._declare(delay_s, is_staged)
        answer = self._clients[tenant].chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": question}],
            temperature=0.0,
            max_tokens=ANSWER_TOKENS,
            extra_body={"vector_store_ids": [self._stores[tenant]], "return_token_ids": True},
        )
        whole = answer.model_dump()
        return float(whole["mygo"]["usage"]["ttft_s"]), whole

    def pairs(self, share: float, delay_s: float, count: int, tell: Tell) -> Pairs:
        found = Pairs(share, delay_s)
        warm = self.questions(1)[0]
        for number in range(2 * WARMUP):
            self.ask(warm, number % 2, delay_s, True)
        for number, question in enumerate(self.questions(count)):
            staged_tenant = number % 2
            # who is asked first, and which tenant, change independently
            tenants = (0, 1) if number // 2 % 2 else (1, 0)
            answers: dict[bool, dict[str, Any]] = {}
            for tenant in tenants:
                is_staged = tenant == staged_tenant
                took_s, answers[is_staged] = self.ask(question, tenant, delay_s, is_staged)
                (found.on_s if is_staged else found.off_s).append(took_s)
            overlap = answers[True]["mygo"]["overlap"]
            found.left_s.append(delay_s * (1 - overlap["settled_stage"] / overlap["stages"]))
            found.outcomes.append(overlap["outcome"])
            found.differing += _said(answers[True]) != _said(answers[False])
            tell(f"retrieval {share:g} of a cold prefill: {number + 1} of {count} pairs")
        return found


def _said(answer: dict[str, Any]) -> tuple[Any, ...]:
    """What must not depend on when the prefill began; files have other ids for each tenant."""
    choice = answer["choices"][0]
    cited = [(each["filename"], each["chunk"], each["score"]) for each in answer["mygo"]["citations"]]
    return choice["message"]["content"], choice.get("token_ids"), cited


def _wait_ready(config: Config) -> None:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        try:
            url = f"http://127.0.0.1:{config.http.port}/readyz"
            if httpx.get(url, timeout=10.0, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"not ready after {READY_S:g} s")
