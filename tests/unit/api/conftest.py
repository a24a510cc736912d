"""A real HTTP server on a free loopback port, for the official client to talk to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from memory_service import MemoryService
from openai import OpenAI

from mygo.api import create_app
from mygo.config import Config, parse


@dataclass
class Face:
    base_url: str
    service: MemoryService

    def client(self, api_key: str = "none", max_retries: int = 0) -> OpenAI:
        return OpenAI(base_url=f"{self.base_url}/v1", api_key=api_key, max_retries=max_retries, timeout=20)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, timeout=20)


@contextlib.contextmanager
def serving(config: Config) -> Iterator[Face]:
    service = MemoryService()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(create_app(config, service), log_level="critical", lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield Face(f"http://127.0.0.1:{port}", service)
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def face() -> Iterator[Face]:
    """One server per test file; tests make their own stores."""
    with serving(Config()) as face:
        yield face


@pytest.fixture(scope="module")
def blending() -> Iterator[Face]:
    """A deployment that allows approximate reuse."""
    with serving(parse({"reuse": {"mode": "blend"}})) as face:
        yield face


@pytest.fixture
def client(face: Face) -> OpenAI:
    return face.client()


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, Any]], Face]]:
    """Start a server with settings of the test's own."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(serving(parse(settings)))
