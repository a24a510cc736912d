"""From a recipe and a seed to a trace.

Everything is drawn from its own stream, named after the seed and what it is for. So equal arguments give
equal traces on any machine, a shorter trace is the beginning of a longer one, and another rate or another
document length asks for the same documents in the same order (unless drift, updates or tenants' probes,
which go by the clock, come between).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from mygo.types import DEFAULT_TENANT, PUBLIC, DomainTag, TenantId
from mygo.workloads.arrivals import Arrival, arrive
from mygo.workloads.cut import only_named
from mygo.workloads.lengths import Lengths
from mygo.workloads.recipe import Recipe
from mygo.workloads.topics import Corpus, Retrieval
from mygo.workloads.trace import Text, TextId, Trace, TraceRequest, Update

SYSTEM = TextId("system")
PROBER = TenantId("prober")

_HOUR_S = 3_600.0


def generate(recipe: Recipe, seed: int) -> Trace:
    """The trace of ``recipe`` under ``seed``."""
    return _Generator(recipe, seed).trace()


class _Library:
    """A corpus in one domain: topics, and the present content of each document."""

    def __init__(self, domain: DomainTag, retrieval: Retrieval, document: Lengths, seed: int) -> None:
        self.domain = domain
        self.retrieval = retrieval
        self.corpus = Corpus(retrieval, f"{seed}/{domain}")
        self._prefix = "" if domain == PUBLIC else f"{domain}/"
        self._document = document
        self._seed = seed
        self._versions: dict[int, int] = {}

    def present(self, document: int) -> TextId:
        """The id of its present content."""
        version = self._versions.get(document, 0)
        return TextId(f"{self._prefix}d{document}" + (f"@{version}" if version else ""))

    def text(self, name: TextId) -> Text:
        return Text(self._document.sample(Random(f"{self._seed}/length/{name}")), self.domain)

    def rewrite(self, document: int) -> None:
        self._versions[document] = self._versions.get(document, 0) + 1


@dataclass(slots=True)
class _Session:
    name: str
    tenant: TenantId
    library: _Library
    topic: int
    turns: int = 1


class _Generator:
    """One run: the open sessions, the libraries, and every text named so far."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self._recipe = recipe
        self._seed = seed
        self._texts: dict[TextId, Text] = {SYSTEM: Text(recipe.system_tokens)}
        self._public = _Library(PUBLIC, recipe.retrieval, recipe.document, seed)
        self._private: dict[TenantId, _Library] = {}
        self._open: deque[_Session] = deque(maxlen=recipe.sessions.open_sessions if recipe.sessions else 1)
        self._retrieved_privately: tuple[TextId, ...] = ()
        self._updates: list[Update] = []
        self._update_rng = Random(f"{seed}/updates")
        self._next_update_s = self._update_gap_s()

    def trace(self) -> Trace:
        recipe = self._recipe
        requests: list[TraceRequest] = []
        pending: list[tuple[float, int, TraceRequest]] = []
        made = 0
        for index, arrival in enumerate(arrive(recipe.arrivals, Random(f"{self._seed}/arrivals"))):
            # Siblings of earlier bursts may still come before this arrival; nothing new does.
            while pending and pending[0][0] <= arrival.at_s:
                requests.append(heapq.heappop(pending)[2])
            if len(requests) >= recipe.requests:
                break
            self._update_until(arrival.at_s)
            for request in self._burst(index, arrival):
                heapq.heappush(pending, (request.arrival_s, made, request))
                made += 1
        kept = requests[: recipe.requests]
        return self._finished(tuple(replace(each, number=number) for number, each in enumerate(kept)))

    def _burst(self, index: int, arrival: Arrival) -> Iterator[TraceRequest]:
        """The request of ``arrival`` and its siblings: same tenant, same documents, other questions."""
        first = self._request(index, arrival.at_s)
        yield first
        for sibling, at_s in enumerate(arrival.siblings_s, start=1):
            sizes = Random(f"{self._seed}/sizes/{index}/{sibling}")
            yield replace(
                first,
                arrival_s=at_s,
                question_tokens=self._recipe.question.sample(sizes),
                output_tokens=self._recipe.output.sample(sizes),
                history=(),
                session=None,
            )

    def _request(self, index: int, at_s: float) -> TraceRequest:
        recipe = self._recipe
        who, what = Random(f"{self._seed}/who/{index}"), Random(f"{self._seed}/what/{index}")
        sizes = Random(f"{self._seed}/sizes/{index}")
        documents: tuple[TextId, ...] = ()
        history: tuple[TextId, ...] = ()
        session = None
        if self._is_probe(who):
            tenant, documents = PROBER, tuple(map(self._copy, self._retrieved_privately))
        else:
            session = self._session(index, at_s, who, what)
            tenant, history = session.tenant, self._history(session)
            if what.random() >= recipe.no_documents_probability:
                documents = self._retrieve(session, what)
        return TraceRequest(
            number=index,
            arrival_s=at_s,
            system=SYSTEM,
            documents=documents,
            question_tokens=recipe.question.sample(sizes),
            output_tokens=recipe.output.sample(sizes),
            history=history,
            tenant=tenant,
            session=session.name if session and recipe.sessions else None,
        )

    def _session(self, index: int, at_s: float, who: Random, what: Random) -> _Session:
        """The session that goes on with this request, or a new one."""
        law = self._recipe.sessions
        if law and self._open and who.random() < 1 - 1 / law.mean_turns:
            session = self._open[who.randrange(len(self._open))]
            session.turns += 1
            if what.random() >= law.same_topic_probability:
                session.topic = self._topic(session.library, at_s, what)
            return session
        tenant, library = self._tenant(who)
        session = _Session(f"s{index}", tenant, library, self._topic(library, at_s, what))
        self._open.append(session)
        return session

    def _topic(self, library: _Library, at_s: float, what: Random) -> int:
        rank = library.retrieval.topic_law.sample(what, library.retrieval.topics)
        drift = self._recipe.drift
        moved = int(at_s // drift.period_s) * drift.topics if drift else 0
        return (rank + moved) % library.retrieval.topics

    def _tenant(self, who: Random) -> tuple[TenantId, _Library]:
        """A tenant, and the corpus that it asks."""
        law = self._recipe.tenants
        if law is None:
            return DEFAULT_TENANT, self._public
        tenant = TenantId(f"tenant-{who.randrange(law.tenants)}")
        if who.random() >= law.private_probability:
            return tenant, self._public
        if tenant not in self._private:
            retrieval = replace(
                self._recipe.retrieval, corpus_documents=law.private_documents, topics=law.private_topics
            )
            self._private[tenant] = _Library(DomainTag(tenant), retrieval, self._recipe.document, self._seed)
        return tenant, self._private[tenant]

    def _retrieve(self, session: _Session, what: Random) -> tuple[TextId, ...]:
        library = session.library
        names = tuple(map(library.present, library.corpus.retrieve(session.topic, what)))
        for name in names:
            if name not in self._texts:
                self._texts[name] = library.text(name)
        if library is not self._public:
            self._retrieved_privately = names
        return names

    def _history(self, session: _Session) -> tuple[TextId, ...]:
        """The turns before this one."""
        law = self._recipe.sessions
        names = tuple(TextId(f"{session.name}/turn{turn}") for turn in range(1, session.turns))
        for name in names:
            if law and name not in self._texts:
                tokens = law.turn.sample(Random(f"{self._seed}/length/{name}"))
                self._texts[name] = Text(tokens, DomainTag(session.tenant))
        return names

    def _is_probe(self, who: Random) -> bool:
        law = self._recipe.tenants
        wanted = law is not None and who.random() < law.prober_probability
        return wanted and bool(self._retrieved_privately)

    def _copy(self, original: TextId) -> TextId:
        name = TextId(f"{PROBER}/{original}")
        self._texts[name] = Text(self._texts[original].tokens, DomainTag(PROBER), copy_of=original)
        return name

    def _update_until(self, at_s: float) -> None:
        """Rewrite public documents, drawn as a request would draw them."""
        while self._next_update_s <= at_s:
            rng, library = self._update_rng, self._public
            document = rng.choice(
                library.corpus.retrieve(self._topic(library, self._next_update_s, rng), rng)
            )
            old = library.present(document)
            library.rewrite(document)
            new = library.present(document)
            for name in (old, new):
                self._texts.setdefault(name, library.text(name))
            self._updates.append(Update(self._next_update_s, old, new))
            self._next_update_s += self._update_gap_s()

    def _update_gap_s(self) -> float:
        rate = self._recipe.updates_per_hour / _HOUR_S
        return self._update_rng.expovariate(rate) if rate else float("inf")

    def _finished(self, requests: tuple[TraceRequest, ...]) -> Trace:
        recipe = self._recipe
        corpus_documents = recipe.retrieval.corpus_documents
        if recipe.tenants:
            corpus_documents += recipe.tenants.tenants * recipe.tenants.private_documents
        updates = tuple(update for update in self._updates if update.at_s <= requests[-1].arrival_s)
        return Trace(
            name=recipe.name,
            texts=only_named(self._texts, requests, updates),
            requests=requests,
            updates=updates,
            seed=self._seed,
            parameters=recipe.parameters(),
            corpus_documents=corpus_documents,
        )
