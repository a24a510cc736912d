"""vLLM's own OpenAI-compatible server, started as its users start it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cluster import free_port
from benchmarks.systems.server_process import ServerProcess
from benchmarks.systems.streams import events, http_client
from benchmarks.systems.system import Counters, Query, Reply, Settings

START_S = 600.0
ROOT = Path(__file__).parents[2]

_SAMPLE = re.compile(r"^(?P<name>[\w:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class VllmSystem:
    """A row: vLLM with some arguments more."""

    name: str
    summary: str
    arguments: Callable[[Path, Settings], Sequence[str]]
    """Further command line arguments; the folder is the system's own."""
    host_tier: bool = False
    python: Path = Path(sys.executable)
    workers: int = 1
    keeps_order: bool = True

    @property
    def memory_gb(self) -> float:
        return 3.2

    def problem(self) -> str | None:
        return None

    def start(self, folder: Path, settings: Settings) -> VllmServer:
        port = free_port()
        command = [
            *(str(self.python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *_common(settings),
            *self.arguments(folder, settings),
        ]
        return VllmServer(command, port, folder, settings)


class VllmServer:
    """A running server; asks it with token ids, so that it applies no template of its own."""

    engine_title = "VLLM::Worker"

    def __init__(self, command: Sequence[str], port: int, folder: Path, settings: Settings) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._model = settings.model.name
        self._salted = len(settings.tenants) > 1
        self._client = http_client()
        self._process = ServerProcess(command, folder / "server.log", _environment(settings))
        self._process.wait_for(f"{self._url}/health", START_S)

    @property
    def root_pids(self) -> tuple[int, ...]:
        return (self._process.pid,)

    async def ask(self, query: Query) -> Reply:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": query.prompt.token_ids,
            "max_tokens": query.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        if self._salted:  # tenants share no KV here either
            body["cache_salt"] = query.tenant
        reply = Reply([], [], [], 0, 0.0, 0.0)
        async for arrived_s, event in events(self._client, f"{self._url}/v1/completions", body, {}):
            for choice in event["choices"]:
                reply.prompt_ids = choice.get("prompt_token_ids") or reply.prompt_ids
                if token_ids := choice.get("token_ids"):
                    reply.token_times_s.append(arrived_s)
                    reply.output_ids += token_ids
            if usage := event.get("usage"):
                reply.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                timing = event.get("metrics") or {}
                reply.queue_s = (timing.get("queue_time_ms") or 0.0) / 1000
                reply.prefill_s = (timing.get("time_to_first_token_ms") or 0.0) / 1000
        if reply.prompt_ids != query.prompt.token_ids:
            raise RuntimeError(f"request {query.number}: vLLM says that it was given another prompt")
        return reply

    async def counters(self) -> Counters:
        text = (await self._client.get(f"{self._url}/metrics")).raise_for_status().text
        cached: dict[str, float] = {}
        load_s = 0.0
        for name, labels, value in samples(text):
            if name == "vllm:prompt_tokens_cached_by_source_total" and value:
                cached[labels["source"]] = cached.get(labels["source"], 0.0) + value
            if name == "vllm:kv_offload_load_time_total":
                load_s += value
        return Counters(cached, load_s)

    def stop(self) -> None:
        self._process.stop()


def samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of every sample in Prometheus' text format."""
    return [
        (found["name"], dict(_LABEL.findall(found["labels"] or "")), float(found["value"]))
        for found in _SAMPLE.finditer(text)
    ]


def connector(name: str, extra: Mapping[str, Any], module: str | None = None) -> list[str]:
    """Arguments that load a KV connector."""
    config: dict[str, Any] = {
        "kv_connector": name,
        "kv_role": "kv_both",
        "kv_connector_extra_config": dict(extra),
    }
    if module is not None:
        config["kv_connector_module_path"] = module
    return ["--kv-transfer-config", json.dumps(config)]


def _common(settings: Settings) -> list[str]:
    """The engine arguments that MyGO's workers are started with, and what the measurement needs."""
    model = settings.model
    return [
        *("--model", str(settings.model_path), "--served-model-name", model.name),
        *("--dtype", model.dtype),
        *("--max-model-len", str(model.max_context_tokens)),
        *("--kv-cache-memory-bytes", str(model.kv_cache_bytes)),
        *("--block-size", str(model.block_tokens)),
        *("--max-num-batched-tokens", str(model.step_tokens)),
        *("--long-prefill-token-threshold", str(model.long_prefill_tokens)),
        *("--max-num-seqs", str(model.max_running)),
        *(["--enforce-eager"] if model.enforce_eager else []),
        "--enable-prompt-tokens-details",
        "--enable-per-request-metrics",
        "--disable-uvicorn-access-log",
    ]


def _environment(settings: Settings) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, settings.worker_cores(1))),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
