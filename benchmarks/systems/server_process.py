"""A server in a process of its own: started, waited for, ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from benchmarks import processes

STOP_S = 20.0


class ServerProcess:
    """``command`` with its output in ``log``, in a session of its own."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"{' '.join(command)}\n".encode())
            file.flush()
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, url: str, timeout_s: float) -> None:
        """Until ``url`` answers 200. If it does not in time, or the process ends, everything is ended.

        Raises RuntimeError with the end of the log.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            while not _answers(url):
                if self._process.poll() is not None:
                    raise RuntimeError(f"the server ended with {self._process.returncode}: {self._tail()}")
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"the server does not serve after {timeout_s:g} s: {self._tail()}")
                time.sleep(0.5)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to end; kill whatever is left. Nothing for one that has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                processes.kill_tree(self.pid)
                self._process.wait()

    def _tail(self) -> str:
        return f"...{self._log.read_text(errors='replace')[-2000:]}\nthe whole log: {self._log}"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
