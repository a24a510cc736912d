"""vLLM with LMCache's host tier: its server beside the engine, its connector inside (optional)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster import free_port
from benchmarks.systems.server_process import ServerProcess
from benchmarks.systems.system import Counters, Query, Reply, Server, Settings
from benchmarks.systems.vllm_server import ROOT, VllmServer, VllmSystem, connector

FOLDER = ROOT / ".venv-lmcache" / "bin"
START_S = 120.0
CHUNK_TOKENS = 256


@dataclass(frozen=True)
class LmcacheSystem:
    name: str = "lmcache"
    summary: str = (
        f"vLLM, prefix caching and LMCache 0.5.6 in its own process: a host tier in chunks of {CHUNK_TOKENS} "
        "tokens; the size is in whole GB, at least 1"
    )
    workers: int = 1
    host_tier: bool = True
    keeps_order: bool = True

    @property
    def memory_gb(self) -> float:
        return 4.5

    def problem(self) -> str | None:
        if (FOLDER / "lmcache").exists():
            return None
        return "LMCache is not installed: run scripts/install_lmcache.sh (about 200 MB in .venv-lmcache)"

    def start(self, folder: Path, settings: Settings) -> LmcacheServer:
        return LmcacheServer(folder, settings)


class LmcacheServer:
    """LMCache's server, and the vLLM that uses it."""

    engine_title = VllmServer.engine_title

    def __init__(self, folder: Path, settings: Settings) -> None:
        port, http_port = free_port(), free_port()
        gigabytes = str(max(1, round(settings.host_kv_bytes / 2**30)))
        command = [
            *(str(FOLDER / "lmcache"), "server", "--host", "127.0.0.1"),
            *("--port", str(port), "--http-port", str(http_port)),
            *("--supported-transfer-mode", "lmcache_driven", "--chunk-size", str(CHUNK_TOKENS)),
            *("--l1-size-gb", gigabytes, "--l1-init-size-gb", gigabytes, "--eviction-policy", "LRU"),
        ]
        self._process = ServerProcess(command, folder / "lmcache.log", {})
        self._process.wait_for(f"http://127.0.0.1:{http_port}/healthcheck", START_S)
        try:
            self._engine: Server = _engine(port).start(folder, settings)
        except BaseException:
            self._process.stop()
            raise

    @property
    def root_pids(self) -> tuple[int, ...]:
        return (self._process.pid, *self._engine.root_pids)

    async def ask(self, query: Query) -> Reply:
        return await self._engine.ask(query)

    async def counters(self) -> Counters:
        return await self._engine.counters()

    def stop(self) -> None:
        self._engine.stop()
        self._process.stop()


def _engine(port: int) -> VllmSystem:
    extra = {
        "lmcache.mp.host": "127.0.0.1",
        "lmcache.mp.port": port,
        "lmcache.mp.mp_transfer_mode": "lmcache_driven",
    }
    module = "lmcache.integration.vllm.lmcache_mp_connector"
    return VllmSystem(
        name="lmcache",
        summary="",
        arguments=lambda folder, settings: [
            "--enable-prefix-caching",
            *connector("LMCacheMPConnector", extra, module),
        ],
        python=FOLDER / "python",
    )


ROWS = (LmcacheSystem(),)
