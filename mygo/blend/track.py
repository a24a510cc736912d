"""One alpha in one bucket: how far its answers were from exact ones, and what that proves."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from mygo.blend.betting import MeanTest
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Divergence

RECENT = 30
"""Observations that are kept, to find out which document is to blame for them. More would remember so much
good that some document seemed to be alone to blame for a model that has just broken."""
BLAMED = 2.0
"""A document is to blame whose mean is at least so many times the bound, if the others keep it."""
JUDGED_OBSERVATIONS = 25
"""Before, a document that happened to be in most requests would be taken for the model."""
BLAMED_OBSERVATIONS = 5
"""Fewer say nothing of a document, nor of the rest."""


@dataclass(slots=True)
class Track:
    """Tests two claims of the mean of the KL, clipped to ``kl_clip`` nats: that it is at most the bound
    (``harm`` is evidence against it), and that it is at least the bound (``proof`` is)."""

    level: int
    """Index of its alpha among the guard's."""
    kl_clip: float
    harm: MeanTest
    proof: MeanTest
    harm_at: float
    """Evidence of harm at which the first claim is given up."""
    proof_at: float
    count: int = 0
    kl_sum: float = 0.0
    """Of clipped KL, in nats."""
    agreement_sum: float = 0.0
    overlap_sum: float = 0.0
    recent: deque[tuple[float, tuple[DocumentTag, ...]]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Clipped KL and the documents that were reused."""

    @staticmethod
    def begin(level: int, kl_bound: float, kl_clip: float, *, harm_error: float, proof_error: float) -> Track:
        """``harm_error``, ``proof_error``: how likely each claim may ever be given up if it holds."""
        bound = kl_bound / kl_clip
        return Track(level, kl_clip, MeanTest(bound), MeanTest(1 - bound), 1 / harm_error, 1 / proof_error)

    def observe(self, divergence: Divergence, documents: Collection[DocumentTag]) -> None:
        kl = min(divergence.first_token_kl, self.kl_clip)
        self.count += 1
        self.kl_sum += kl
        self.agreement_sum += divergence.top1_agreement
        self.overlap_sum += divergence.overlap
        self.recent.append((kl, tuple(documents)))
        # a claim that was given up stays so; its evidence would only outgrow what a float can hold
        if not self.harmful:
            self.harm.observe(kl / self.kl_clip)
        if not self.proven:
            self.proof.observe(1 - kl / self.kl_clip)

    @property
    def mean_kl(self) -> float:
        """Nats; 0 if nothing was observed."""
        return self.kl_sum / max(1, self.count)

    @property
    def recent_kl(self) -> float:
        """The mean of the recent observations, in nats; 0 if there are none."""
        return sum(kl for kl, _ in self.recent) / max(1, len(self.recent))

    @property
    def harmful(self) -> bool:
        return self.harm.evidence >= self.harm_at

    @property
    def judged(self) -> bool:
        """Whether enough was seen to tell one document from the rest."""
        return self.count >= JUDGED_OBSERVATIONS

    @property
    def proven(self) -> bool:
        return self.proof.evidence >= self.proof_at

    def culprit(self, kl_bound: float, beside: DocumentTag | None = None) -> DocumentTag | None:
        """The one document without which the recent observations keep the bound, if there is one; of all
        observations, or of those with a document ``beside``."""
        observed = [each for each in self.recent if beside is None or beside in each[1]]
        total, count = sum(kl for kl, _ in observed), len(observed)
        of: dict[DocumentTag, list[float]] = {}
        for kl, documents in observed:
            for document in dict.fromkeys(documents):
                of.setdefault(document, []).append(kl)
        suspects = [
            (sum(kls) / len(kls), document)
            for document, kls in of.items()
            if min(len(kls), count - len(kls)) >= BLAMED_OBSERVATIONS
            and sum(kls) >= BLAMED * kl_bound * len(kls)
            and total - sum(kls) <= kl_bound * (count - len(kls))
        ]
        return max(suspects)[1] if suspects else None

    def good_without(self, document: DocumentTag, kl_bound: float) -> bool:
        """Whether all else that was observed lately keeps the bound, as far as it says anything."""
        rest = [kl for kl, documents in self.recent if document not in documents]
        return len(rest) >= BLAMED_OBSERVATIONS and sum(rest) <= kl_bound * len(rest)

    def forget(self, document: DocumentTag) -> None:
        """It is not reused any more, so it is no recent one."""
        self.recent = deque((each for each in self.recent if document not in each[1]), RECENT)


@dataclass(slots=True)
class Bucket:
    """What is served to the requests of a bucket, and what may be served next."""

    served: Track | None = None
    """None: answer exactly."""
    trial: Track | None = None

    @property
    def state(self) -> str:
        return "proven" if self.served is not None else "unproven" if self.trial is not None else "off"
