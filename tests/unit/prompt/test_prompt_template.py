from __future__ import annotations

import datetime

import pytest
from prompt_models import CHATML, COUNTED, LLAMA, TEMPLATES, make_tokenizer, model

from mygo.errors import BadRequest, ConfigError
from mygo.prompt.template import ChatTemplate, Slot


def refused(chat_template: str | None) -> str:
    with pytest.raises(ConfigError) as caught:
        ChatTemplate.from_tokenizer(make_tokenizer(chat_template))
    return str(caught.value)


def test_layout_ends_the_system_message_with_documents_when_there_is_a_system_role() -> None:
    layout = model("chatml")[1].layout(("user",))
    assert layout.before == "<|im_start|>system\n"
    assert layout.after == ("<|im_end|>\n<|im_start|>user\n", Slot(0), "<|im_end|>\n<|im_start|>assistant\n")


def test_layout_opens_the_first_user_message_with_documents_when_there_is_no_system_role() -> None:
    template = model("gemma")[1]
    layout = template.layout(("user", "assistant", "user"))
    assert template.folds_system
    assert layout.before == "<|bos|><|im_start|>user\n"
    assert layout.after[:3] == (Slot(0), "<|im_end|>\n<|im_start|>model\n", Slot(1))


def test_layout_folds_the_system_text_when_the_template_would_put_it_behind_the_history() -> None:
    template = model("mistral")[1]
    assert template.folds_system
    assert template.layout(("user", "assistant", "user")).before == "<|bos|>[INST] "


def test_layout_folds_the_system_text_when_the_template_drops_it() -> None:
    drops = "{% for m in messages if m['role'] != 'system' %}" + CHATML.split("{% for m in messages %}")[1]
    assert ChatTemplate.from_tokenizer(make_tokenizer(drops)).folds_system


@pytest.mark.parametrize("name", TEMPLATES)
def test_layout_keeps_what_precedes_documents_when_the_conversation_grows(name: str) -> None:
    template = model(name)[1]
    befores = {template.layout(("user", *("assistant", "user") * turns)).before for turns in range(5)}
    assert len(befores) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_turn_joins_as_the_template_itself_does(name: str) -> None:
    tokenizer, template = model(name)
    assert template.turn is not None
    messages = [{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}]
    messages.append({"role": "user", "content": "Q2"})
    pins = {"date_string": "26 Jul 2024", "strftime_now": datetime.datetime(2024, 7, 26).strftime}
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **pins)
    assert whole.endswith(f"A1{template.turn.joiner}Q2{template.turn.tail}")


def test_turn_is_none_when_the_template_numbers_its_messages() -> None:
    assert ChatTemplate.from_tokenizer(make_tokenizer(COUNTED)).turn is None


@pytest.mark.parametrize(("name", "dated"), [("chatml", False), ("llama", True), ("clock", True)])
def test_dates_are_pinned_when_the_template_prints_them(name: str, dated: bool) -> None:
    template = model(name)[1]
    assert template.dated is dated
    before = template.layout(("user",)).before
    assert ("26 Jul 2024" in before or "2024-07-26 00:00" in before) is dated


def test_dates_are_the_given_ones_when_pinned_by_the_caller() -> None:
    template = ChatTemplate.from_tokenizer(make_tokenizer(LLAMA), pinned_date=datetime.date(2031, 1, 2))
    assert "02 Jan 2031" in template.layout(("user",)).before


def test_trimmed_strips_what_the_template_strips() -> None:
    assert model("llama")[1].trimmed("user", "  hi\n") == "hi"
    assert model("gemma")[1].trimmed("system", "  hi\n") == "hi"
    assert model("chatml")[1].trimmed("user", "  hi\n") == "  hi\n"


def test_trimmed_strips_one_side_only_when_the_template_does() -> None:
    left = CHATML.replace(
        "m['content'] }}", "(m['content'].lstrip() if m['role'] == 'user' else m['content']) }}"
    )
    template = ChatTemplate.from_tokenizer(make_tokenizer(left))
    assert template.trimmed("user", " hi ") == "hi "
    assert template.trimmed("assistant", " hi ") == " hi "


def test_template_is_refused_when_there_is_none() -> None:
    assert "chat_template.jinja" in refused(None)


@pytest.mark.parametrize(
    "content",
    ["m['content'][:8]", "m['content'] | upper", "m['content'] ~ m['content']", "''"],
    ids=["shortens", "changes", "repeats", "drops"],
)
def test_template_is_refused_when_it_does_not_write_texts_as_they_are(content: str) -> None:
    assert "cannot hold documents" in refused(CHATML.replace("m['content']", content))


def test_template_is_refused_when_it_varies_between_renders() -> None:
    message = refused(CHATML.replace("assistant\n", "assistant {{ range(10**5) | random }}\n"))
    assert "another text each time" in message


def test_template_is_refused_when_it_always_fails() -> None:
    assert "broken on purpose" in refused("{{ raise_exception('broken on purpose') }}")


def test_layout_refuses_roles_that_the_template_does_not_take() -> None:
    with pytest.raises(BadRequest, match="roles must alternate") as caught:
        model("gemma")[1].layout(("user", "user"))
    assert caught.value.param == "messages"


def test_layout_refuses_an_answer_without_a_question_when_the_template_has_no_system_role() -> None:
    with pytest.raises(BadRequest, match="roles assistant, user"):
        model("mistral")[1].layout(("assistant", "user"))
