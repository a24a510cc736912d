"""Searches in virtual time, and prefills that begin before they have ended, as ``mygo/serve/overlapping.py``
begins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mygo.errors import BadRequest, Unavailable
from mygo.speculation import Foresight, Gate, Outlook, Quote, Speculation
from mygo.types import RequestId
from mygo.workloads.trace import TextId, TraceRequest

if TYPE_CHECKING:
    from mygo.simulation.cluster import Ingress, Simulation

SCOPE = "simulated"
"""All requests search in the same place."""


@dataclass(frozen=True, slots=True)
class RetrievalShape:
    """How searches go, and what is begun beside them."""

    stages: Callable[[TraceRequest], list[tuple[float, tuple[TextId, ...]]]]
    """(seconds since arrival, documents found so far) of a request; the last with the trace's documents."""
    one_go_s: float
    """From arrival to the documents of a search that is not in stages."""
    speculations: int = 0
    """Prefills for provisional results at once; 0: none."""
    gated: bool = True
    """False: whenever the documents have changed and the bound allows it, which is RAGCache's rule."""


@dataclass(slots=True)
class _Early:
    name: RequestId
    quote: Quote
    began_s: float


class _Search:
    def __init__(self, request: TraceRequest, ingress: Ingress, now_s: float) -> None:
        self.request = request
        self.ingress = ingress
        self.arrived_s = now_s
        self.speculation = Speculation(now_s)
        self.sent = 0
        self.early: _Early | None = None


class Searches:
    """The searches of one simulation."""

    def __init__(self, shape: RetrievalShape, simulation: Simulation) -> None:
        self._shape = shape
        self._simulation = simulation
        self.gate = Gate(shape.speculations)
        self._foresight = Foresight()
        self.ended: dict[int, Speculation] = {}
        """By number of the request."""

    def begin(self, request: TraceRequest, ingress: Ingress, now_s: float) -> None:
        """A request has come: its search begins, if it has documents at all."""
        if not request.documents:
            self._simulation.send(request, ingress, now_s, now_s)
            return
        search = _Search(request, ingress, now_s)
        self.gate.searches(+1)
        if not self.gate.has_room:
            self._simulation.at(now_s + self._shape.one_go_s, partial(self._final, search))
            return
        *provisional, (final_s, _) = self._shape.stages(request)
        for after_s, documents in provisional:
            self._simulation.at(now_s + after_s, partial(self._provisional, search, documents))
        self._simulation.at(now_s + final_s, partial(self._final, search))

    def _provisional(self, search: _Search, documents: tuple[TextId, ...], now_s: float) -> None:
        move = search.speculation.provisional(documents, now_s)
        if move.end:
            self._end_early(search, now_s)
        if move.consider:
            self._consider(search, replace(search.request, documents=documents), now_s)

    def _consider(self, search: _Search, request: TraceRequest, now_s: float) -> None:
        prompt = self._simulation.prompt(request, search.ingress)
        step_tokens = self._simulation.step_tokens
        quote = search.ingress.desk.quote_early(prompt, now_s, step_tokens=step_tokens)
        outlook = self._foresight.outlook(SCOPE, search.speculation, now_s)
        if quote is None or not self._allows(outlook, quote):
            return
        search.sent += 1
        name = RequestId(f"r{request.number}-early{search.sent}")
        asked = self._simulation.early(request, prompt, name)
        try:
            self._simulation.dispatch(
                asked, search.request, prompt, search.ingress, search.arrived_s, now_s, is_held=True
            )
        except (Unavailable, BadRequest):
            return
        self.gate.began()
        search.speculation.began(now_s)
        search.early = _Early(name, quote, now_s)

    def _allows(self, outlook: Outlook, quote: Quote) -> bool:
        return self.gate.allows(outlook, quote) if self._shape.gated else self.gate.has_room

    def _final(self, search: _Search, now_s: float) -> None:
        self.gate.searches(-1)
        adopted = search.speculation.final(search.request.documents, now_s)
        self._foresight.learn(SCOPE, search.speculation)
        self.ended[search.request.number] = search.speculation
        early = search.early
        if early is not None and adopted:
            self.gate.over()
            self.gate.dispatched(early.quote.wait_s)
            self._simulation.confirm(early.name, now_s)
            return
        if early is not None:
            self._end_early(search, now_s)
        self._simulation.send(search.request, search.ingress, search.arrived_s, now_s)

    def _end_early(self, search: _Search, now_s: float) -> None:
        early, search.early = search.early, None
        assert early is not None
        self.gate.over()
        told_s = self._simulation.prefilled_s(early.name)
        computed_s = early.quote.computed_s(now_s - early.began_s) if told_s is None else told_s
        search.speculation.ended(computed_s, self._simulation.decoded_s(early.name))
        self._simulation.end(early.name, now_s)
