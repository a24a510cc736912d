"""The model's own chat template, split once per sequence of roles into literals and slots.

The template is rendered with a marker in place of every text that comes from outside, and cut at the
markers. So text from outside never passes through the template engine, and the literals around it are
known before any request comes.

Documents stand at the end of the system message, or, where a template knows no system role, behind the
system text at the start of the first user message. They come before everything that changes per turn.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mygo.errors import BadRequest, ConfigError

PINNED_DATE = datetime.date(2024, 7, 26)
"""What a template that prints the date is given; Llama 3's own fallback. A real date would make
yesterday's KV useless."""

_PROBE = ("user", "assistant", "user")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat. ``role``: ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the text of message ``index`` goes (0-based, the leading system message not counted)."""

    index: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A prompt with documents first: ``before``, system text, documents, then ``after`` in order."""

    before: str
    after: tuple[str | Slot, ...]


@dataclass(frozen=True, slots=True)
class TurnLayout:
    """A turn appended to an earlier answer: ``joiner``, documents, question, ``tail``."""

    joiner: str
    """From the end of the answer to where the next user message begins."""
    tail: str
    """From the end of that message to where the next answer begins."""


class _Unsplittable(Exception):
    """The template did something to a marker; the message says what."""


class ChatTemplate:
    """Made by ``from_tokenizer``; immutable but for a bounded memory of layouts."""

    folds_system: bool
    """True if the template takes no leading system message: system text and documents then open the
    first user message."""
    dated: bool
    """True if the template prints the date, which is pinned."""
    turn: TurnLayout | None
    """None if turns look different at different places, so that none can be appended."""
    text: str
    """All that the template may write by itself, and its source."""

    def __init__(self, render: Callable[..., str], *, source: str, pinned_date: datetime.date) -> None:
        """Use ``from_tokenizer``. ``render(messages, date)`` gives the template's text."""
        self._render_at = render
        self._date = pinned_date
        self.folds_system = self._must_fold()
        probe = self._split(_PROBE)
        if probe != self._split(_PROBE):
            raise ConfigError(
                "the chat template gives another text each time it is rendered, so no prompt would ever "
                "be found in a cache; remove what varies (a random or clock value) from chat_template"
            )
        self.dated = probe != self._split(_PROBE, date=pinned_date + datetime.timedelta(days=400))
        self.turn = self._turn()
        self._trims = {role: self._trim_of(role) for role in ("system", "user", "assistant")}
        self.text = "".join([source, probe.before, *(p for p in probe.after if isinstance(p, str))])
        self._layout = lru_cache(maxsize=256)(self._split)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, *, pinned_date: datetime.date = PINNED_DATE) -> ChatTemplate:
        """Probe a Hugging Face tokenizer's chat template.

        Raises ConfigError if there is none, if it loses or changes what it is given, or if its text
        varies from render to render although the date is pinned.
        """
        source = tokenizer.chat_template
        if not source:
            raise ConfigError(
                "the tokenizer has no chat template; use an instruction-tuned model, or put a "
                "chat_template.jinja beside its tokenizer"
            )

        def render(messages: Sequence[dict[str, str]], date: datetime.date) -> str:
            midnight = datetime.datetime.combine(date, datetime.time())
            text = tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=True,
                date_string=date.strftime("%d %b %Y"),
                strftime_now=midnight.strftime,
            )
            if not isinstance(text, str):
                raise TypeError(f"it gives a {type(text).__name__} instead of text")
            return text

        return cls(render, source=str(source), pinned_date=pinned_date)

    def layout(self, roles: tuple[str, ...]) -> Layout:
        """The layout for messages with these roles behind the system message.

        Raises BadRequest if the template does not take such a sequence.
        """
        try:
            return self._layout(roles)
        except _Unsplittable as error:
            raise BadRequest(
                f"the model's chat template does not take messages with the roles {', '.join(roles)} "
                f"({error}); most templates want user and assistant in turns, beginning with user",
                param="messages",
            ) from error

    def trimmed(self, role: str, text: str) -> str:
        """``text`` without the white space that the template would remove from a message of ``role``."""
        left, right = self._trims[role]
        if left:
            text = text.lstrip()
        return text.rstrip() if right else text

    def _must_fold(self) -> bool:
        problems = []
        for folds in (False, True):
            try:
                self._split(_PROBE, folds=folds)
            except _Unsplittable as error:
                problems.append(str(error))
            else:
                return folds
        raise ConfigError(
            f"the chat template cannot hold documents: with a system message {problems[0]}; without one "
            f"{problems[1]}; use a template that writes each message once, as it is, in order"
        )

    def _turn(self) -> TurnLayout | None:
        """What stands around an appended turn, if it is the same after one turn and after two."""
        found = set()
        for turns in (1, 2):
            try:
                after = self._split(_PROBE[:2] * turns + _PROBE[2:]).after
            except _Unsplittable:
                return None
            for answer in range(1, 2 * turns, 2):
                joiner = _between(after, answer, answer + 1)
                found.add(TurnLayout(joiner, _behind(after)))
        found.add(TurnLayout(next(iter(found)).joiner, _behind(self._split(_PROBE[:1]).after)))
        return found.pop() if len(found) == 1 else None

    def _trim_of(self, role: str) -> tuple[bool, bool]:
        """Whether the template strips (the left, the right) of a message's text."""
        roles = [*(() if self.folds_system else ("system",)), *_PROBE]
        if role not in roles:
            role = "user"  # folded system text opens a user message
        target = roles.index(role)

        def render(left: str, right: str) -> str:
            texts = [_marker(index) for index in range(len(roles))]
            texts[target] = left + texts[target] + right
            return self._render(roles, texts, self._date)

        bare = render("", "")
        return render(" \n", "") == bare, render("", " \n") == bare

    def _split(
        self, roles: tuple[str, ...], *, folds: bool | None = None, date: datetime.date | None = None
    ) -> Layout:
        """Render markers for the texts of ``roles`` and cut there; raises _Unsplittable."""
        folds = self.folds_system if folds is None else folds
        date = date or self._date
        texts = [_marker(index) for index in range(len(roles))]
        opening = _marker("SYSTEM") + _marker("DOCUMENTS")
        if folds:
            if roles[:1] != ("user",):
                raise _Unsplittable("there is no user message to open with the documents")
            rendered = self._render(roles, [opening + texts[0], *texts[1:]], date)
        else:
            rendered = self._render(("system", *roles), [opening, *texts], date)
        literals = _cut(rendered, [_marker("SYSTEM"), _marker("DOCUMENTS"), *texts])
        if literals[1]:
            raise _Unsplittable("it writes between the system text and what follows")
        after: list[str | Slot] = []
        for index, literal in enumerate(literals[2:]):
            after += [literal] if literal else []
            after += [Slot(index)] if index < len(roles) else []
        return Layout(literals[0], tuple(after))

    def _render(self, roles: Sequence[str], texts: Sequence[str], date: datetime.date) -> str:
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        try:
            return self._render_at(messages, date)
        except Exception as error:  # a template is a program of strangers and may raise anything
            raise _Unsplittable(f"it fails with: {error}") from error


def _marker(name: str | int) -> str:
    return f"mygo7f3c{name}e41b"


_MARKERS = re.compile(f"({_marker('(?:SYSTEM|DOCUMENTS|[0-9]+)')})")


def _cut(rendered: str, markers: Sequence[str]) -> list[str]:
    """The literals before, between and behind the markers, which must each stand there once, in order."""
    pieces = _MARKERS.split(rendered)
    found = pieces[1::2]
    if found != list(markers):
        lost = [marker for marker in markers if marker not in found]
        if lost:
            raise _Unsplittable(f"it drops, shortens or changes {len(lost)} of {len(markers)} texts")
        raise _Unsplittable("it repeats texts or puts them in another order")
    return pieces[::2]


def _between(pieces: Sequence[str | Slot], first: int, second: int) -> str:
    """The literal between two neighbouring slots."""
    low, high = pieces.index(Slot(first)), pieces.index(Slot(second))
    return "".join(piece for piece in pieces[low + 1 : high] if isinstance(piece, str))


def _behind(pieces: Sequence[str | Slot]) -> str:
    """The literal behind the last slot."""
    last = pieces[-1]
    return last if isinstance(last, str) else ""
