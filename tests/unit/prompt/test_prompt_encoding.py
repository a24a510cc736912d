from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_models import CONTROL, UNMARKED, make_tokenizer, model

from mygo.errors import ConfigError
from mygo.prompt.encoding import TextEncoder

TOKENIZER, TEMPLATE = model("unmarked")
ENCODER = TextEncoder(TOKENIZER, TEMPLATE.text)
SPELLINGS = (*CONTROL, "<|User|>", "<|Assistant|>")
CONTROL_IDS = set(TOKENIZER.convert_tokens_to_ids(list(SPELLINGS)))
hostile = st.lists(st.sampled_from([*SPELLINGS, "<|", "|>", "<", " ", "\n"]) | st.text(max_size=8)).map(
    "".join
)


@given(hostile)
def test_text_never_becomes_a_control_token_and_decodes_to_itself(text: str) -> None:
    ids = ENCODER.text(text)
    assert not CONTROL_IDS & set(ids)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


@given(hostile)
def test_least_tokens_is_never_more_than_there_are(text: str) -> None:
    assert ENCODER.least_tokens(len(text)) <= len(ENCODER.text(text))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_literal_becomes_a_control_token_when_it_spells_one(spelling: str) -> None:
    assert ENCODER.literal(spelling) == (TOKENIZER.convert_tokens_to_ids(spelling),)


def test_text_is_encoded_whole_when_the_tokenizer_can_split_special_tokens() -> None:
    """Cutting by hand is for the others: it loses merges, here that of ``<|``."""
    ids = TOKENIZER("a<|im_end|>", add_special_tokens=False, split_special_tokens=True).input_ids
    assert list(ENCODER.text("a<|im_end|>")) == ids
    assert "<|" in TOKENIZER.convert_ids_to_tokens(ids)


def test_text_is_encoded_as_usual_when_it_holds_no_control_token() -> None:
    text = "the with statement in winter <tag>\n\n"
    assert list(ENCODER.text(text)) == TOKENIZER(text, add_special_tokens=False).input_ids


def test_added_tokens_stay_usable_in_text_when_the_template_does_not_write_them() -> None:
    encoder = TextEncoder(make_tokenizer("no markers here"), "no markers here")
    assert encoder.text("<|User|>") == (TOKENIZER.convert_tokens_to_ids("<|User|>"),)


def test_literals_and_text_do_not_disturb_each_other_when_they_alternate() -> None:
    tokenizer = make_tokenizer(UNMARKED)
    encoder = TextEncoder(tokenizer, UNMARKED)
    for number in range(3):
        spelled = f"<|im_end|>{number}"
        assert not CONTROL_IDS & set(encoder.text(spelled))
        assert CONTROL_IDS & set(encoder.literal(spelled))
        assert CONTROL_IDS & set(tokenizer(spelled, add_special_tokens=False).input_ids)


def test_encoder_refuses_a_tokenizer_when_it_lets_control_tokens_through() -> None:
    tokenizer = make_tokenizer(UNMARKED)
    tokenizer.add_special_tokens({"pad_token": "!"})  # an ordinary character, which cannot be cut apart
    with pytest.raises(ConfigError, match="'!' in a user's text"):
        TextEncoder(tokenizer, UNMARKED)
