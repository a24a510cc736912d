"""The quality guard in the engine: asked before a prompt is blended, told how far blends were from exact.

A decision that asks for a comparison gets a *ticket*, which leaves the engine with the answer. The worker
process sends the prompt again, once exactly and once with the ticket, which blends it as decided: from the
same variants, with the same repair, whatever is cached, captured or decided since. Otherwise the comparison
would be with a copy that the very request left behind. What comes of it is observed here, between two steps.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from mygo.blend.guard import Guard
from mygo.blend.plan import BlendPlan, Piece
from mygo.blend.variants import DocumentTag
from mygo.blend.verdicts import Action, Change, Decision, Divergence, GuardSettings, Verdict
from mygo.vllm_plugin.chunks.deviations import Deviations
from mygo.vllm_plugin.chunks.guard_file import GuardFile
from mygo.vllm_plugin.chunks.live import Live
from mygo.vllm_plugin.chunks.quality_view import QualityView, need_range, view
from mygo.vllm_plugin.settings import ChunkSettings

logger = logging.getLogger(__name__)

STEPS = (1.0, 1.5, 2.0, 3.0)
"""Multiples of the configured repair share that are tried one after the other."""
TICKETS = 64
"""That are remembered, the latest ones; the worker has dropped those that are older."""
SAVE_EVERY_S = 60.0
"""What changes a decision is saved at once, mere evidence so often."""


@dataclass(slots=True)
class Ticket:
    decision: Decision
    plan: BlendPlan
    """What is blended, or would have been."""
    exact_hashes: Sequence[bytes]
    """Of the prompt, which nothing else may be blended by it."""

    deviations: Deviations = field(default_factory=Deviations)

    @property
    def documents(self) -> list[DocumentTag]:
        pieces = inexact(self.plan)
        return [piece.variant.document for piece in pieces if piece.variant is not None]


def inexact(plan: BlendPlan | None) -> list[Piece]:
    """The documents that are reused, but not where they were born."""
    return [piece for piece in plan.pieces if not piece.exact] if plan is not None else []


class Quality:
    """One per engine. Nothing here raises once it is made: without a guard's word, answers are exact."""

    def __init__(
        self, settings: ChunkSettings, subject: str, rng: Random, clock: Callable[[], float]
    ) -> None:
        """``subject`` names what the evidence holds for, besides the settings. Raises ConfigError for
        settings that no guard can keep."""
        self._repair_share = settings.repair_share
        self._rng = rng
        self._clock = clock
        self._tickets: OrderedDict[int, Ticket] = OrderedDict()
        self._opened = 0
        self._decisions: Counter[Action] = Counter()
        self._observations = 0
        self._file: GuardFile | None = None
        self._saved_s = clock()
        self._guard: Guard | None = None
        if settings.host_bytes and settings.guard:
            bounds = GuardSettings(alphas(settings.repair_share), settings.kl_bound)
            if settings.guard_state_path is not None:
                means = " ".join(
                    (str(settings.floor_tokens), settings.method, settings.births, settings.fillers)
                ).rstrip()
                self._file = GuardFile(settings.guard_state_path, f"{subject} {means}")
            self._guard = self._file.load(bounds) if self._file is not None else Guard(bounds)

    # --- before a prompt is blended --------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Part of the identity of approximate blocks."""
        return self._guard.generation if self._guard is not None else 0

    def is_off(self, document: DocumentTag) -> bool:
        """Whether it must not be reused."""
        return self._guard is not None and document in self._guard.documents_off

    def decide(self, live: Live, offer: BlendPlan) -> Decision:
        """How to answer a request that could be blended like this, at the least alpha. A request that asks
        again gets the same answer, unless another need or a loss of trust calls for a new one."""
        if self._guard is None:
            return Decision(Action.BLEND, 0, self._repair_share)
        need = max(piece.match.need for piece in inexact(offer) if piece.match is not None)
        asked = need, self._guard.generation
        if live.decision is None or live.asked != asked:
            live.asked = asked
            live.decision = self._decide(need, offer)
        return live.decision

    def _decide(self, need: float, offer: BlendPlan) -> Decision:
        assert self._guard is not None
        try:
            return self._guard.decide(need, offer.exact_s / offer.predicted_s, self._rng)
        except Exception:
            logger.exception("quality guard: no decision, so a request is answered exactly")
            return Decision(Action.EXACT, 0)

    def admitted(self, live: Live) -> int | None:
        """A request begins as it was planned last. Returns its ticket if it is to be compared."""
        decision = live.decision
        if self._guard is None or decision is None or not inexact(live.offer):
            return None
        assert live.offer is not None
        self._decisions[decision.action] += 1
        if decision.action not in (Action.SHADOW, Action.CHECK):
            return None
        self._opened += 1
        self._tickets[self._opened] = Ticket(decision, live.offer, live.exact_hashes)
        if len(self._tickets) > TICKETS:
            self._tickets.popitem(last=False)
        return self._opened

    # --- afterwards ------------------------------------------------------------------------------

    def plan_of(self, ticket: int, live: Live) -> BlendPlan | None:
        """What a request with this ticket is to be blended by; None if it is another prompt, or too late."""
        known = self._tickets.get(ticket)
        return known.plan if known is not None and known.exact_hashes == live.exact_hashes else None

    def heard(self, deviations: Deviations) -> None:
        """How far stored values were found to be from exact ones."""
        for ticket in deviations.tickets():
            if ticket in self._tickets:
                self._tickets[ticket].deviations += deviations

    def observe(self, ticket: int, divergence: Divergence) -> None:
        """A comparison came to its end. It counts once, and not at all if it is too late."""
        known = self._tickets.pop(ticket, None)
        if self._guard is None or known is None:
            return
        try:
            values = known.deviations.of(ticket)
            changes = self._guard.observe(
                known.decision, known.documents, replace(divergence, value_deviation=values)
            )
        except Exception:
            logger.exception("quality guard: a comparison was lost")
            return
        self._observations += 1
        for change in changes:
            _tell(change, self._guard.settings.kl_bound)
        if changes or self._clock() - self._saved_s >= SAVE_EVERY_S:
            self._save()

    def forget(self, documents: Collection[DocumentTag]) -> None:
        """They were deleted: if they come back, they have a clean record."""
        if self._guard is not None:
            for document in documents:
                self._guard.forget(document)

    def reset(self) -> None:
        """Begin anew, with nothing proven and nothing off."""
        if self._guard is None:
            return
        generation = self._guard.generation + 1  # what was blended so far is not trusted either
        self._guard = Guard(self._guard.settings, generation=generation)
        self._tickets.clear()
        logger.warning("quality guard: reset; blending is to be proven anew, until then answers are exact")
        self._save()

    def view(self) -> QualityView | None:
        """None without a guard."""
        if self._guard is None:
            return None
        return view(self._guard, self._decisions, self._observations)

    def close(self) -> None:
        self._save()
        if self._file is not None:
            self._file.close()

    def _save(self) -> None:
        self._saved_s = self._clock()
        if self._file is None or self._guard is None:
            return
        try:
            self._file.save(self._guard)
        except Exception:
            logger.exception("quality guard: its state was not saved")


def alphas(repair_share: float) -> tuple[float, ...]:
    """What the guard may choose from: the configured share, and multiples of it up to 1."""
    return tuple(sorted({min(1.0, round(repair_share * step, 6)) for step in STEPS}))


def _tell(change: Change, kl_bound: float) -> None:
    start, end = need_range(change.bucket)
    requests = f"requests that need {start:.0%} to {end:.0%} repair"
    found = f"mean KL {change.mean_kl:.3f} of at most {kl_bound:g} over {change.observations} comparisons"
    match change.verdict:
        case Verdict.PROVEN:
            logger.info(
                "quality guard: %s are blended at alpha %.3g from now on: %s", requests, change.alpha, found
            )
        case Verdict.LOWERED:
            logger.info(
                "quality guard: %s are blended at the lower alpha %.3g: %s", requests, change.alpha, found
            )
        case Verdict.RAISED:
            logger.warning(
                "quality guard: %s are answered exactly until alpha %.3g is proven: the one before broke the "
                "bound (%s); if this lasts, raise the configured repair share",
                requests,
                change.alpha,
                found,
            )
        case Verdict.OFF:
            logger.error(
                "quality guard: blending is off for %s: %s, and more repair would not help; check the model "
                "and the settings of reuse, then reset the guard",
                requests,
                found,
            )
        case Verdict.DOCUMENT_OFF:
            logger.error(
                "quality guard: passage %s is not reused any more: its stored KV, or what is answered by it, "
                "is too far from exact (%s, %s); delete it and add it again, or reset the guard",
                change.document,
                requests,
                found,
            )
