"""The other end of the wire for tests of the command line: a real HTTP server with canned answers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Answers what the test puts into ``answers``: (method, path) -> (status, body), or else ``handle``."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                path = self.path.partition("?")[0]
                outer.seen.append((self.command, path, self.headers.get("Authorization")))
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = outer.answers.get((self.command, path)) or outer.handle(
                    self.command, path, sent
                )
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def handle(self, method: str, path: str, sent: bytes) -> tuple[int, Any]:
        return 404, {"error": {"message": f"the test expects no {method} {path}"}}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
