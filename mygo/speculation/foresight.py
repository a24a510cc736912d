"""What a provisional result is worth: how much of it lasts, and how long the search goes on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from mygo.speculation.machine import Speculation, shared_share

PRIOR_SEARCHES = 2.0
"""Weight of the prior in searches: it expects half of a provisional result to last."""
MEMORY_SEARCHES = 200.0
"""About so many searches count; older ones fade, since indexes and questions change."""
MOST_SCOPES = 256


@dataclass(frozen=True, slots=True)
class Outlook:
    """At one stage of one search."""

    useful_share: float
    """Of a prefill for the documents found so far: how much is expected to serve the final prompt."""
    remaining_s: float
    """Expected seconds until the final result."""


@dataclass(slots=True)
class _Seen:
    searches: float = 0.0
    useful: float = 0.0
    remaining_s: float = 0.0

    def add(self, useful: float, remaining_s: float) -> None:
        keep = 1 - 1 / MEMORY_SEARCHES
        self.searches = self.searches * keep + 1
        self.useful = self.useful * keep + useful
        self.remaining_s = self.remaining_s * keep + remaining_s


class Foresight:
    """Learns from searches that have ended, apart for each scope (what is searched) and stage."""

    def __init__(self) -> None:
        self._scopes: OrderedDict[Hashable, dict[int, _Seen]] = OrderedDict()

    def outlook(self, scope: Hashable, search: Speculation, now_s: float) -> Outlook:
        """After the stages that ``search`` has had; of none, for what does not depend on documents.

        Of a stage that no search had so far, half is expected to last, and the search to take as long again.
        """
        stage = len(search.stages)
        seen = self._scopes.get(scope, {}).get(stage, _Seen())
        useful = (seen.useful + PRIOR_SEARCHES / 2) / (seen.searches + PRIOR_SEARCHES)
        if not seen.searches:
            return Outlook(useful, now_s - search.began_s)
        stage_s = search.stages[-1][1] if stage else search.began_s
        return Outlook(useful, max(0.0, seen.remaining_s / seen.searches - (now_s - stage_s)))

    def search_s(self, scope: Hashable) -> float:
        """Expected seconds of a search; 0 where none was seen."""
        seen = self._scopes.get(scope, {}).get(0, _Seen())
        return seen.remaining_s / seen.searches if seen.searches else 0.0

    def learn(self, scope: Hashable, search: Speculation) -> None:
        """``search`` has had its final result."""
        seen = self._scopes.setdefault(scope, {})
        self._scopes.move_to_end(scope)
        if len(self._scopes) > MOST_SCOPES:
            self._scopes.popitem(last=False)
        final, final_s = search.stages[-1]
        seen.setdefault(0, _Seen()).add(0.0, final_s - search.began_s)
        for stage, (documents, at_s) in enumerate(search.stages[:-1], 1):
            useful = 1.0 if documents == final else shared_share(documents, final)
            seen.setdefault(stage, _Seen()).add(useful, final_s - at_s)
