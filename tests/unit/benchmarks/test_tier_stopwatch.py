"""Time inside the plugin's hooks is counted once, and for whoever ran."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import tier_stopwatch
from benchmarks.tier_stopwatch import Stopwatch

NOW = SimpleNamespace(s=0.0)


class Theirs:
    def lookup(self) -> None:
        NOW.s += 2
        Ours().get()
        NOW.s += 3
        self._walk()

    def count(self) -> None:
        NOW.s += 1000
        with pytest.raises(KeyError):
            Ours().fail()

    def _walk(self) -> None:
        NOW.s += 100


class Ours:
    def get(self) -> None:
        NOW.s += 10
        Theirs().count()

    def fail(self) -> None:
        NOW.s += 7
        raise KeyError


class Connector:
    def hook(self) -> None:
        NOW.s += 10_000
        Theirs().lookup()
        self.other_hook()

    def other_hook(self) -> None:
        NOW.s += 20_000


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> Connector:
    monkeypatch.setattr(tier_stopwatch, "_THEIRS", (Theirs,))
    monkeypatch.setattr(tier_stopwatch, "_OURS", (Ours,))
    monkeypatch.setattr(tier_stopwatch, "time", SimpleNamespace(perf_counter=lambda: NOW.s))
    return Connector()


def test_time_is_told_apart_at_each_border(connector: Connector) -> None:
    stopwatch = Stopwatch()
    stopwatch.wrap(connector, ["hook", "other_hook"])
    untouched = Theirs.lookup, Ours.get
    with stopwatch.telling_apart() as sample:
        connector.hook()
        Theirs().lookup()  # not within a hook
    assert sample.hooks_s == {"hook": 30_000 + 2 + 3 + 100 + 10 + 1000 + 7}
    assert sample.offloading_s == 2 + 3 + 100 + 1000
    assert sample.own_s == 30_000 + 10 + 7
    assert (Theirs.lookup, Ours.get) == untouched


def test_nothing_is_told_apart_unless_asked(connector: Connector) -> None:
    stopwatch = Stopwatch()
    stopwatch.wrap(connector, ["hook"])
    with stopwatch.measuring() as sample:
        connector.hook()
    assert (sample.offloading_s, sample.own_s) == (0.0, sample.in_hooks_s)
