"""SGLang with its radix cache, on a CPU (optional)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.cluster import free_port
from benchmarks.systems.server_process import ServerProcess
from benchmarks.systems.streams import events, http_client
from benchmarks.systems.system import Counters, Query, Reply, Settings
from benchmarks.systems.vllm_server import ROOT

PYTHON = ROOT / ".venv-sglang" / "bin" / "python"
START_S = 300.0


@dataclass(frozen=True)
class SglangSystem:
    name: str = "sglang"
    summary: str = (
        "SGLang 0.5.23 with its radix cache; on a CPU with torch's own attention, slower than vLLM's, and "
        "with stubs for sgl_kernel and torchvision; it does not report queueing, so all counts as prefill"
    )
    workers: int = 1
    memory_gb: float = 3.5
    host_tier: bool = False
    keeps_order: bool = True

    def problem(self) -> str | None:
        if PYTHON.exists():
            return None
        return "SGLang is not installed: run scripts/install_sglang.sh (about 100 MB in .venv-sglang)"

    def start(self, folder: Path, settings: Settings) -> SglangServer:
        return SglangServer(folder, settings)


class SglangServer:
    """A running server."""

    engine_title = "sglang::scheduler"

    def __init__(self, folder: Path, settings: Settings) -> None:
        model, port = settings.model, free_port()
        command = [
            *(str(PYTHON), "-m", "sglang.launch_server", "--host", "127.0.0.1", "--port", str(port)),
            *("--model-path", str(settings.model_path), "--device", "cpu", "--dtype", model.dtype),
            *("--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
            *("--disable-cuda-graph", "--disable-overlap-schedule", "--grammar-backend", "none"),
            *("--max-total-tokens", str(model.kv_cache_bytes // settings.kv_bytes_per_token)),
            *("--context-length", str(model.max_context_tokens)),
            *("--chunked-prefill-size", str(model.long_prefill_tokens or model.step_tokens)),
            *("--max-running-requests", str(model.max_running), "--skip-server-warmup"),
        ]
        self._url = f"http://127.0.0.1:{port}"
        self._client = http_client()
        cores = settings.worker_cores(1)
        environment = {"OMP_NUM_THREADS": str(len(cores)), "HF_HUB_OFFLINE": "1"}
        self._process = ServerProcess(command, folder / "server.log", environment)
        self._process.wait_for(f"{self._url}/health", START_S)
        # its own binding of cores needs sgl_kernel
        for pid in processes.below(self._process.pid, processes.running()):
            if " ".join(processes.command(pid)).startswith(self.engine_title):
                processes.confine([pid], cores)

    @property
    def root_pids(self) -> tuple[int, ...]:
        return (self._process.pid,)

    async def ask(self, query: Query) -> Reply:
        body: dict[str, Any] = {
            "input_ids": query.prompt.token_ids,
            "sampling_params": {"temperature": 0, "max_new_tokens": query.output_tokens, "ignore_eos": True},
            "stream": True,
        }
        reply = Reply([], [], query.prompt.token_ids, 0, 0.0, 0.0)
        sent_s = time.perf_counter()
        async for arrived_s, event in events(self._client, f"{self._url}/generate", body, {}):
            if len(event["output_ids"]) > len(reply.output_ids):
                reply.token_times_s.append(arrived_s)
            reply.output_ids = event["output_ids"]  # all so far
            account = event["meta_info"]
            reply.cached_tokens = account["cached_tokens"]
            if account["prompt_tokens"] != query.prompt.tokens:
                raise RuntimeError(
                    f"request {query.number}: SGLang counts {account['prompt_tokens']} prompt tokens"
                )
        if reply.token_times_s:
            reply.prefill_s = reply.token_times_s[0] - sent_s
        return reply

    async def counters(self) -> Counters:
        return Counters()

    def stop(self) -> None:
        self._process.stop()


ROWS = (SglangSystem(),)
