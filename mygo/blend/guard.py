"""The quality guard: blends only what was proven to be good enough, and stops when it is not any more.

A bucket gathers requests whose neediest document has about the same need for repair (the CFO at alpha 1). In
each, alphas are tried from the first, calibrated one upwards:

- *Unproven*: requests are answered exactly; some are blended aside, and compared. Proof costs no answer.
- *Proven*: requests are answered by the blend; a sample is recomputed exactly aside, and compared. Above the
  first alpha, part of the sample goes to the next lower one instead, as if that were unproven; it takes over
  once it is proven.
- Where the bound is broken, the next alpha goes on probation, unproven; behind the last one, or where the
  bound was missed by so much that a little more repair cannot help, the bucket is *off*, until it is reset.
- A document that is to blame alone is not reused any more; the rest goes on. Two things tell on it: requests
  that reuse it break the bound, or its stored values are too far from those that the exact computation gave.
  (Values scaled by 1.5 in one of four documents moved the first token's KL of SmolLM2-135M from 0.02 to 0.03:
  answers alone do not show it.)

The bound is on the mean KL of the first token's distribution, clipped: heavy tails have no testable mean. All
tests hold at any time (``betting``), and their errors are spent over all that are ever begun: the probability
that a guard ever stops anything, if all that it blends keeps the bounds, is at most ``HARM_ERROR``; that it
ever serves a bucket at an alpha that does not keep it (as unproven requests measured it) at most
``PROOF_ERROR``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random

from mygo.blend.betting import portion
from mygo.blend.suspects import Suspects
from mygo.blend.track import Bucket, Track
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Change, Decision, Divergence, GuardSettings, Verdict

BUCKETS = 4
HARM_ERROR = 0.01
"""Half for buckets, half for documents: a quarter by what they do to answers, one by what is stored."""
PROOF_ERROR = 0.05
HOPELESS = 2.0
"""Times the bound: a mean beyond it, since the alpha is tried, is no lack of repair."""
FIRST_SHARE = 0.10
"""Sampled share of an unproven bucket's requests."""
COST_SHARE = 0.02
"""Share of a proven bucket's computation that goes to checks."""


@dataclass(slots=True)
class Guard:
    """Of one model. Requests that reuse nothing, or exactly, are none of its business."""

    settings: GuardSettings
    buckets: dict[int, Bucket] = field(default_factory=dict)
    documents_off: set[DocumentTag] = field(default_factory=set)
    """Must not be reused."""
    generation: int = 0
    """Rises when something that was served lost trust; part of the identity of approximate blocks."""
    tracks: int = 0
    """Begun so far."""
    harmful: Suspects = field(init=False)
    """Documents by the KL of the requests that reused them."""
    damaged: Suspects = field(init=False)
    """Documents by how far their stored values are from exact ones."""

    def __post_init__(self) -> None:
        self.harmful = Suspects(self.settings.kl_bound / self.settings.kl_clip, HARM_ERROR / 4)
        self.damaged = Suspects(self.settings.deviation_bound, HARM_ERROR / 4)

    def decide(self, need: float, check_cost: float, rng: Random) -> Decision:
        """How to answer a request whose neediest document has this need, in [0, 1].

        ``check_cost``: predicted seconds of computing its prompt exactly aside, over those of the blended
        prompt; with answers, a check costs less than that. Of a proven bucket, ``COST_SHARE`` over it is
        sampled.
        """
        number = min(BUCKETS - 1, int(need * BUCKETS))
        bucket = self._bucket(number)
        served, trial = bucket.served, bucket.trial
        costly = served is not None and check_cost > 0
        share = min(FIRST_SHARE, COST_SHARE / check_cost) if costly else FIRST_SHARE
        sampled = rng.random() < share
        if trial is not None and sampled and (served is None or rng.random() < 0.5):
            return Decision(Action.SHADOW, number, self.settings.alphas[trial.level])
        if served is None:
            return Decision(Action.EXACT, number)
        action = Action.CHECK if sampled else Action.BLEND
        return Decision(action, number, self.settings.alphas[served.level])

    def observe(
        self, decision: Decision, documents: Collection[DocumentTag], divergence: Divergence
    ) -> list[Change]:
        """A shadow or check that was decided came to its end; these documents were reused, not exactly.

        What was decided before the bucket changed tells nothing of what it is now, and is passed over.
        """
        bucket = self._bucket(decision.bucket)
        track = bucket.served if decision.action is Action.CHECK else bucket.trial
        if track is None or self.settings.alphas[track.level] != decision.alpha:
            return []
        if not self.documents_off.isdisjoint(documents):
            return []
        track.observe(divergence, documents)
        guilty = self._guilty(track, documents, divergence)
        if track.harmful and track.judged and not guilty:
            culprit = track.culprit(self.settings.kl_bound)
            if culprit is None:
                return self._harmed(decision.bucket, track)
            guilty = [culprit]
        if guilty:
            return [self._give_up(document, decision.bucket, track) for document in guilty]
        if track is bucket.trial and track.proven:
            return [self._proven(decision.bucket, track)]
        return []

    def forget(self, document: DocumentTag) -> None:
        """Nothing of the document is held any more: if it comes back, it has a clean record."""
        self.documents_off.discard(document)
        self.harmful.forget(document)
        self.damaged.forget(document)

    def _guilty(
        self, track: Track, documents: Collection[DocumentTag], divergence: Divergence
    ) -> list[DocumentTag]:
        kl = min(divergence.first_token_kl, self.settings.kl_clip) / self.settings.kl_clip
        # A request's KL is that of all its documents. Who diverges only beside another one is not to blame,
        # and nobody is where the rest is as bad.
        bound = self.settings.kl_bound
        harmful = [
            track.culprit(bound, beside=document) or document
            for document in self.harmful.observe(dict.fromkeys(documents, kl))
        ]
        harmful = [document for document in harmful if track.good_without(document, bound)]
        damaged = self.damaged.observe(
            {document: min(1.0, each) for document, each in divergence.value_deviation.items()}
        )
        return list(dict.fromkeys(harmful + damaged))

    def _bucket(self, number: int) -> Bucket:
        if number not in self.buckets:
            self.buckets[number] = Bucket(trial=self._track(0))
        return self.buckets[number]

    def _track(self, level: int) -> Track:
        self.tracks += 1
        share = portion(self.tracks)
        return Track.begin(
            level,
            self.settings.kl_bound,
            self.settings.kl_clip,
            harm_error=HARM_ERROR / 2 * share,
            proof_error=PROOF_ERROR * share,
        )

    def _give_up(self, document: DocumentTag, number: int, track: Track) -> Change:
        self.forget(document)
        self.documents_off.add(document)
        self.generation += 1
        alpha = self.settings.alphas[track.level]
        change = Change(Verdict.DOCUMENT_OFF, number, alpha, track.recent_kl, len(track.recent), document)
        begin_anew = track.good_without(document, self.settings.kl_bound)
        track.forget(document)
        if begin_anew:  # what it did says nothing of the rest
            bucket, fresh = self.buckets[number], self._track(track.level)
            fresh.recent = track.recent
            if track is bucket.served:
                bucket.served = fresh
            elif track is bucket.trial:
                bucket.trial = fresh
        return change

    def _harmed(self, number: int, track: Track) -> list[Change]:
        bucket = self.buckets[number]
        if track is bucket.trial and bucket.served is not None:
            bucket.trial = self._track(track.level)  # still not good enough, and nobody noticed
            return []
        if track is bucket.served:
            self.generation += 1
        bucket.served = None
        last = track.level + 1 == len(self.settings.alphas)
        hopeless = track.mean_kl >= HOPELESS * self.settings.kl_bound
        bucket.trial = None if last or hopeless else self._track(track.level + 1)
        verdict = Verdict.OFF if bucket.trial is None else Verdict.RAISED
        alpha = self.settings.alphas[track.level if bucket.trial is None else track.level + 1]
        return [Change(verdict, number, alpha, track.recent_kl, len(track.recent))]

    def _proven(self, number: int, track: Track) -> Change:
        bucket = self.buckets[number]
        verdict = Verdict.PROVEN if bucket.served is None else Verdict.LOWERED
        change = Change(verdict, number, self.settings.alphas[track.level], track.mean_kl, track.count)
        bucket.served = track
        bucket.trial = self._track(track.level - 1) if track.level else None
        return change
