"""Where an engine's quality guard outlives it. Imports no vLLM."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mygo.blend import guard_state
from mygo.blend.guard import Guard
from mygo.blend.verdicts import GuardSettings
from mygo.errors import MygoError

logger = logging.getLogger(__name__)


class GuardFile:
    """A file in ``folder`` that is named after ``subject``: whatever the guard's evidence holds for, such as
    the model and how its documents are reused. One engine at a time may use it.

    Nothing here raises: a guard that is not found begins unproven, which costs computation and no answer.
    """

    def __init__(self, folder: str, subject: str) -> None:
        self._path = Path(folder) / f"{hashlib.blake2b(subject.encode(), digest_size=16).hexdigest()}.json"
        # a disk that hangs must not hold up the engine
        self._writer = ThreadPoolExecutor(1, "mygo-guard")

    def load(self, settings: GuardSettings) -> Guard:
        """What was saved last; a new one if there is nothing of use."""
        try:
            return guard_state.load(self._path.read_text(encoding="utf-8"), settings)
        except FileNotFoundError:
            logger.info("quality guard: %s is not there yet: blending is to be proven", self._path)
        except (OSError, UnicodeDecodeError, MygoError) as error:
            logger.warning("quality guard: %s: %s; it begins anew", self._path, error)
        return Guard(settings)

    def save(self, guard: Guard) -> None:
        """Returns at once."""
        self._writer.submit(self._write, guard_state.dump(guard))

    def close(self) -> None:
        """What was saved is on disk when this returns."""
        self._writer.shutdown()

    def _write(self, text: str) -> None:
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self._path)  # in one go: a torn file would lose what was proven
        except OSError as error:
            logger.warning("quality guard: %s cannot be written (%s); a restart begins anew", fresh, error)
