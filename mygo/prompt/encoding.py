"""Text to token ids, with a wall between the template's words and everybody else's.

Only the template's own literals may become control tokens. What users and documents write is text,
even where it spells ``<|im_end|>``.
"""

from __future__ import annotations

import copy
import math
import re
from functools import lru_cache
from typing import Any

from mygo.errors import ConfigError


class TextEncoder:
    """Encodes pieces of one prompt, each by itself, without tokens added around them.

    ``tokenizer`` is a Hugging Face tokenizer; it is copied once, because it keeps its
    ``split_special_tokens`` switch as state, which two callers would turn to and fro.
    ``template_text`` is whatever the chat template may write: an added token in it (DeepSeek's
    ``<|User|>`` and others are not marked special) is as powerful as a special one. Raises ConfigError
    if a control token cannot be kept out of user text.
    """

    def __init__(self, tokenizer: Any, template_text: str) -> None:
        self._for_literals = tokenizer
        self._for_text = copy.deepcopy(tokenizer)
        self._longest_token_chars = max(map(len, tokenizer.get_vocab()))
        self._cuts: re.Pattern[str] | None = None
        leaking = self._leaking(_control_tokens(tokenizer, template_text))
        if leaking:
            # Cut behind the first character of each spelling: its pieces encode apart, to plain ids.
            cuts = (f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in leaking)
            self._cuts = re.compile("|".join(cuts))
            for token in self._leaking(leaking):
                raise ConfigError(
                    f"the tokenizer turns {token!r} in a user's text into a control token, so a document "
                    "could end the prompt; use a tokenizer that honours split_special_tokens"
                )
        self._literal = lru_cache(maxsize=1024)(self._encode_literal)

    def literal(self, text: str) -> tuple[int, ...]:
        """The ids of the template's own text, control tokens included."""
        return self._literal(text)

    def text(self, text: str) -> tuple[int, ...]:
        """The ids of a text from outside; never a control token."""
        pieces = self._cuts.split(text) if self._cuts else [text]
        return tuple(token for piece in pieces if piece for token in self._plain(piece))

    def least_tokens(self, chars: int) -> int:
        """A lower bound of the tokens of a text with so many characters, without encoding it."""
        return math.ceil(chars / self._longest_token_chars)

    def _encode_literal(self, text: str) -> tuple[int, ...]:
        return tuple(self._for_literals(text, add_special_tokens=False, split_special_tokens=False).input_ids)

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._for_text(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def _leaking(self, control: dict[str, int]) -> dict[str, int]:
        return {token: token_id for token, token_id in control.items() if token_id in self.text(token)}


def _control_tokens(tokenizer: Any, template_text: str) -> dict[str, int]:
    """Spelling -> id of every token that text from outside must not produce."""
    control = {}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        spelling = token.content
        # Single characters and white space are added for compression, not as marks.
        written = len(spelling) > 1 and not spelling.isspace() and spelling in template_text
        if (token.special or written) and token_id != tokenizer.unk_token_id:
            control[spelling] = token_id
    return control
