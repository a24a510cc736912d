"""A small client of MyGO's HTTP face, for the commands. It speaks OpenAI's conventions and nothing else,
except ``/readyz`` and what lies below ``/v1/mygo``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from mygo.cli import state
from mygo.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    MygoError,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnparsableDocument,
)

Json = dict[str, Any]

_CONNECT_S = 5.0
_READ_S = 600.0
"""Between two pieces of an answer. A cold prompt behind a queue on a CPU takes minutes."""
_PAGE = 100
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_ERRORS: dict[int, type[BadRequest]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnparsableDocument,
}


def find_url(url: str | None, cluster: str | None) -> str:
    """The cluster to talk to: ``--url``, else ``MYGO_URL``, else the one that runs on this machine.

    Raises NotFound if none runs, BadRequest if several do and ``--cluster`` does not say which.
    """
    url = url or os.environ.get("MYGO_URL")
    if url:
        return url.rstrip("/")
    return pick_server(cluster).url


def pick_server(cluster: str | None) -> state.ServerState:
    """The one server of this machine, or the one named; raises as ``find_url`` does."""
    servers = state.living()
    if cluster is not None:
        servers = [server for server in servers if server.name == cluster]
    if not servers:
        named = "no cluster runs" if cluster is None else f"no cluster named {cluster} runs"
        raise NotFound(f"{named} on this machine; start one with `mygo up`, or give --url")
    if len(servers) > 1:
        names = ", ".join(server.name for server in servers)
        raise BadRequest(f"several clusters run on this machine ({names}); say which with --cluster")
    return servers[0]


class Client:
    """One connection pool to one cluster. Every method raises MygoError with a message for people."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Raises ConfigError if ``url`` is none of HTTP."""
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"--url: {url!r} must begin with http:// or https://, as in http://127.0.0.1:8000"
            )
        key = api_key or os.environ.get("MYGO_API_KEY")
        self.url = url
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
            trust_env=httpx.URL(url).host not in _LOOPBACK,  # a proxy has no business on this machine
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # --- cluster -------------------------------------------------------------------------------

    def readyz(self) -> tuple[bool, list[str]]:
        """Whether it serves, and what is missing until it does."""
        response = self._send("GET", "/readyz", timeout=10.0)
        if response.status_code == 200:
            return True, []
        try:
            return False, [str(each) for each in response.json()["missing"]]
        except (ValueError, KeyError, TypeError):
            return False, [f"HTTP {response.status_code}: {response.text.strip()[:200]}"]

    def status(self) -> Json:
        return self._json("GET", "/v1/mygo/status", timeout=15.0)

    def cache(self, top: int) -> Json:
        """The ``top`` most valuable nodes of every worker's cache."""
        return self._json("GET", "/v1/mygo/cache", params={"top": top}, timeout=30.0)

    def quality(self, *, reset: bool) -> Json:
        """What every worker's quality guard knows; with ``reset``, after it has forgotten everything."""
        return self._json("DELETE" if reset else "GET", "/v1/mygo/cache/quality", timeout=30.0)

    def model(self) -> str:
        """The first model served."""
        return str(self._json("GET", "/v1/models", timeout=15.0)["data"][0]["id"])

    # --- vector stores and files ---------------------------------------------------------------

    def stores(self) -> list[Json]:
        return list(self._pages("/v1/vector_stores"))

    def find_store(self, store: str) -> Json | None:
        """By id or by name (the oldest of equal names)."""
        matching = [entry for entry in self.stores() if store in (entry["id"], entry.get("name"))]
        return min(matching, key=lambda entry: entry.get("created_at", 0)) if matching else None

    def create_store(self, name: str) -> Json:
        return self._json("POST", "/v1/vector_stores", json={"name": name})

    def store_files(self, store_id: str) -> list[Json]:
        return list(self._pages(f"/v1/vector_stores/{store_id}/files"))

    def upload(self, name: str, content: bytes) -> Json:
        return self._json(
            "POST", "/v1/files", data={"purpose": "assistants"}, files={"file": (name, content)}
        )

    def attach(self, store_id: str, file_id: str, attributes: Mapping[str, str]) -> Json:
        body = {"file_id": file_id, "attributes": dict(attributes)}
        return self._json("POST", f"/v1/vector_stores/{store_id}/files", json=body)

    def remove(self, store_id: str, file_id: str) -> None:
        """Take a file out of a store and delete it; what is gone already counts as done."""
        for path in (f"/v1/vector_stores/{store_id}/files/{file_id}", f"/v1/files/{file_id}"):
            response = self._send("DELETE", path)
            if response.status_code != 404:
                _raise_for(response)

    # --- answers -------------------------------------------------------------------------------

    def stream_chat(self, body: Mapping[str, Any]) -> Iterator[Json]:
        """Chunks of ``/v1/chat/completions`` as they come; an error in mid-stream is raised."""
        try:
            with self._http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
                if response.status_code >= 400:
                    response.read()
                    _raise_for(response)
                ended = False
                for line in response.iter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data == "[DONE]":
                        ended = True
                    elif data:
                        yield _chunk(data)
                if not ended:
                    raise Unavailable("the answer broke off: the connection closed before its end; ask again")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    # --- transport -----------------------------------------------------------------------------

    def _pages(self, path: str) -> Iterator[Json]:
        after: Json = {}
        while True:
            page = self._json("GET", path, params={"limit": _PAGE, "order": "asc", **after})
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}

    def _json(self, method: str, path: str, **arguments: Any) -> Json:
        response = self._send(method, path, **arguments)
        _raise_for(response)
        try:
            value: Json = response.json()
        except ValueError:
            raise MygoError(f"{self.url}{path}: answered something that is not JSON; is it MyGO?") from None
        return value

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> MygoError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return Unavailable(
                f"{self.url}: nobody answers ({error}); `mygo status` shows what runs here, "
                "`mygo up` starts it"
            )
        if isinstance(error, httpx.TimeoutException):
            return Unavailable(f"{self.url}: no answer in time; `mygo status` shows whether it is overloaded")
        return Unavailable(f"{self.url}: the connection broke ({type(error).__name__}: {error}); try again")


def _chunk(data: str) -> Json:
    chunk: Json = json.loads(data)
    if error := chunk.get("error"):
        raise Unavailable(str(error.get("message", error)))
    return chunk


def _raise_for(response: httpx.Response) -> None:
    status = response.status_code
    if status < 400:
        return
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {status} from {response.url}: {response.text[:200]}"
    if status in (401, 403) and "MYGO_API_KEY" not in message:
        message = f"{message} (the command line takes the key from MYGO_API_KEY)"
    if status in (429, 503):
        raise Unavailable(message)
    if status >= 500:
        raise MygoError(f"the server failed: {message}")
    raise _ERRORS.get(status, BadRequest)(message)
