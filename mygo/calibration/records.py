"""What was measured, kept as it comes: one line of JSON per question and repair."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mygo.errors import ConfigError

EXACT = "exact"
"""Stands for a method where nothing is reused."""
CACHE_ORDER = "cache order"
"""The same, but documents are laid out in an order that all prompts have in common, as document order
``cache`` does: it finds more exact prefixes, and gives other answers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question, answered in one way."""

    question: str
    documents: int
    """That the question takes."""
    method: str
    """Of ``mygo.blend.selection``, or one of the above."""
    share: float
    """Alpha; 1 if all is computed."""
    first_token_kl: float
    """KL(exact || this) over the whole vocabulary, nats."""
    gold_nats: float
    """Negative log likelihood of the right answer, per token."""
    gold_nats_more: float
    """The same, less that of the exact computation."""
    computed_share: float
    """Of the documents' tokens, those that were computed."""
    f1: float
    exact_match: float
    same: bool
    """The model's own greedy answer is the exact one's."""


class Records:
    """A folder, and the outcomes in it. Raises ConfigError if it holds those of something else."""

    def __init__(self, folder: Path, subject: Mapping[str, Any]) -> None:
        """``subject``: all that outcomes depend on, besides the question and the repair."""
        self._path = folder / "outcomes.jsonl"
        about = folder / "subject.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if about.exists():
                before = json.loads(about.read_text())
                changed = sorted(
                    name for name in {*subject, *before} if subject.get(name) != before.get(name)
                )
                if changed:
                    raise ConfigError(
                        f"--out {folder}: holds a calibration with other {', '.join(changed)}; "
                        "give another folder, or the same settings"
                    )
            else:
                about.write_text(json.dumps(subject, indent=1) + "\n")
            self.outcomes = read(self._path)
        except OSError as error:
            raise ConfigError(f"--out {folder}: cannot be used ({error}); give another one") from error
        self._known = {(each.question, each.method, each.share) for each in self.outcomes}

    def has(self, question: str, method: str, share: float) -> bool:
        return (question, method, share) in self._known

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Those that are known already are passed by."""
        fresh = [each for each in outcomes if not self.has(each.question, each.method, each.share)]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(each)) + "\n" for each in fresh)
            file.flush()
            os.fsync(file.fileno())
        self.outcomes += fresh
        self._known.update((each.question, each.method, each.share) for each in fresh)


def read(path: Path) -> list[Outcome]:
    """All whole lines; the last one of a run that was cut off is cut away."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [Outcome(**json.loads(line)) for line in whole.splitlines()]
