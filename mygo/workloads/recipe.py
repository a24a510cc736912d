"""Everything that makes up a synthetic trace, with units. ``generate`` turns it into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mygo.errors import BadTrace
from mygo.workloads.arrivals import Arrivals
from mygo.workloads.lengths import Lengths
from mygo.workloads.topics import Retrieval


@dataclass(frozen=True, slots=True)
class Drift:
    """Interest moves on: every ``period_s`` each popularity rank goes to the topic ``topics`` further on."""

    period_s: float
    topics: int = 1

    def __post_init__(self) -> None:
        if not self.period_s > 0:
            raise BadTrace(f"drift.period_s: must be above 0, not {self.period_s}")
        if self.topics < 1:
            raise BadTrace(f"drift.topics: must be at least 1, not {self.topics}")


@dataclass(frozen=True, slots=True)
class Tenants:
    """Several tenants over one public corpus, each with a private corpus of its own."""

    tenants: int
    private_probability: float
    """That a request asks its tenant's private corpus, not the public one."""
    private_documents: int
    private_topics: int
    prober_probability: float = 0.0
    """That a request comes from one more tenant, ``prober``, which brings the very words that another
    tenant just retrieved privately (the attack: is the answer quicker than it should be?)."""

    def __post_init__(self) -> None:
        if self.tenants < 1:
            raise BadTrace(f"tenants.tenants: must be at least 1, not {self.tenants}")
        for name in ("private_probability", "prober_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadTrace(f"tenants.{name}: must be between 0 and 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Sessions:
    """Conversations. A request goes on with one of the sessions begun last, or begins one."""

    mean_turns: float
    turn: Lengths
    """One earlier turn, question and answer, as it stands in the history."""
    same_topic_probability: float = 0.5
    """That a further turn asks about the topic of the one before."""
    open_sessions: int = 20
    """How many of the sessions begun last may still go on."""

    def __post_init__(self) -> None:
        if not self.mean_turns >= 1:
            raise BadTrace(f"sessions.mean_turns: must be at least 1, not {self.mean_turns}")
        if not 0 <= self.same_topic_probability <= 1:
            raise BadTrace(
                f"sessions.same_topic_probability: must be between 0 and 1, not {self.same_topic_probability}"
            )
        if self.open_sessions < 1:
            raise BadTrace(f"sessions.open_sessions: must be at least 1, not {self.open_sessions}")


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    requests: int
    retrieval: Retrieval
    arrivals: Arrivals
    document: Lengths
    question: Lengths
    """What no other request has: the question, and what is volatile around it."""
    output: Lengths
    system_tokens: int = 64
    """One system prompt, of all requests."""
    no_documents_probability: float = 0.0
    """That a request is answered without retrieval."""
    updates_per_hour: float = 0.0
    """Documents that get new content, drawn as requests draw them, so popular ones change most."""
    drift: Drift | None = None
    tenants: Tenants | None = None
    sessions: Sessions | None = None

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise BadTrace(f"requests: must be at least 1, not {self.requests}")
        if self.system_tokens < 0:
            raise BadTrace(f"system_tokens: must not be negative, not {self.system_tokens}")
        if not 0 <= self.no_documents_probability <= 1:
            raise BadTrace(
                f"no_documents_probability: must be between 0 and 1, not {self.no_documents_probability}"
            )
        if not self.updates_per_hour >= 0:
            raise BadTrace(f"updates_per_hour: must not be negative, not {self.updates_per_hour}")

    def parameters(self) -> dict[str, str]:
        """Every parameter under its dotted name, for reports and for the trace's own record."""
        return dict(_flat(asdict(self)))


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found.append((f"{prefix}{name}", str(value)))
    return found
