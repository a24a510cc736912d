"""What a person sees while a load test runs."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
from rich.console import Console
from rich.live import Live

from benchmarks.load.drive import Driver
from benchmarks.load.samples import Outcome, Sample

_RECENT = 200
_LINE_EVERY_S = 10.0
"""Without a terminal."""


class Board:
    """One line, kept current. Use as ``with Board(console) as board``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live("", console=console, refresh_per_second=4, transient=True)
        self._outcomes: Counter[str] = Counter()
        self._recent: deque[Sample] = deque(maxlen=_RECENT)
        self._told_s = 0.0

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def add(self, sample: Sample) -> None:
        self._outcomes[sample.outcome] += 1
        self._recent.append(sample)

    def say(self, words: str) -> None:
        self._console.print(words, markup=False, highlight=False)

    def show(self, driver: Driver, what: str) -> None:
        """Call it a few times a second."""
        if self._console.is_terminal:
            self._live.update(self._line(driver, what))
        elif driver.now_s - self._told_s >= _LINE_EVERY_S:
            self._told_s = driver.now_s
            self.say(self._line(driver, what))

    def _line(self, driver: Driver, what: str) -> str:
        lost = ", ".join(f"{n} {name}" for name, n in self._outcomes.items() if name != Outcome.OK)
        ttft_s = [each.ttft_s for each in self._recent if each.ttft_s is not None]
        recent = (
            f"TTFT p50 {np.median(ttft_s):.3f} s, p99 {np.percentile(ttft_s, 99):.3f} s" if ttft_s else ""
        )
        lag_s = np.percentile([each.lag_s for each in self._recent], 99) if self._recent else 0.0
        served = self._outcomes[Outcome.OK]
        return (
            f"{driver.now_s:6.0f} s  {what}  sent {driver.sent}, open {driver.open}, "
            f"served {served}, lost: {lost or 'none'}  {recent}, client lag p99 {lag_s * 1e3:.0f} ms"
        )
