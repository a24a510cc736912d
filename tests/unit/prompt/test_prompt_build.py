from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_models import (
    ALICE,
    BOB,
    CONTROL,
    COUNTED,
    ROOT,
    SYSTEM,
    TEMPLATES,
    assistant,
    decode,
    kinds,
    make_builder,
    model,
    passage,
    user,
)

from mygo.errors import BadRequest
from mygo.prompt import CacheOrder, Earlier, Message
from mygo.tree.keys import narrow, segment_key
from mygo.types import PUBLIC, DomainTag, Prompt, ScoredPassage, SegmentKey, SegmentKind

BUILDERS = {name: make_builder(name) for name in TEMPLATES}
names = st.sampled_from(list(TEMPLATES))
texts = st.lists(st.sampled_from([*CONTROL, "snow", " ", "\n", "ß", "<|User|>", "."]), max_size=6).map(
    "".join
)
passages = st.lists(
    st.builds(
        passage,
        texts,
        filename=st.sampled_from(["", "rain.txt", "<|im_end|>"]),
        domain=st.sampled_from([PUBLIC, ALICE, BOB]),
    ),
    max_size=5,
)
turns = st.lists(st.tuples(texts, texts), max_size=2)
RAIN, SNOW, HAIL = passage("rain falls", filename="rain.txt"), passage("snow melts"), passage("hail hurts")


def dialogue(history: list[tuple[str, str]], question: str) -> list[Message]:
    messages = [m for asked, answered in history for m in (user(asked), assistant(answered))]
    return [*messages, user(question)]


def check_keys(prompt: Prompt) -> None:
    """Keys chain from the root, and domains only ever narrow."""
    key: SegmentKey = ROOT
    domain = PUBLIC
    for segment in prompt.segments:
        assert narrow(domain, segment.domain) == segment.domain
        domain = segment.domain
        key = segment_key(key, domain, segment.token_ids)
        assert segment.key == key
        assert segment.token_ids


def document_segments(prompt: Prompt) -> dict[str, tuple[int, ...]]:
    return {s.passage.text: s.token_ids for s in prompt.segments if s.passage is not None}


@settings(deadline=None, max_examples=50)
@given(names, turns, texts, passages)
def test_documents_first_decodes_to_the_rendered_template(
    name: str, history: list[tuple[str, str]], question: str, found: list[ScoredPassage]
) -> None:
    """The same text as the template gives for the whole, and a control token only where it has one."""
    tokenizer, template = model(name)
    messages = dialogue(history, question)
    prompt = BUILDERS[name].documents_first(messages, found, domain=ALICE)
    check_keys(prompt)

    documents = ""
    for found_passage in (scored.passage for scored in found):
        source = f"Source: {found_passage.filename}\n" if found_passage.filename else ""
        documents += f"\n\n{source}{found_passage.text.strip()}"
    spoken = [(m.role, template.trimmed(m.role, m.content)) for m in messages]
    if template.folds_system:
        spoken[0] = ("user", f"{SYSTEM}{documents}\n\n{spoken[0][1]}")
    else:
        spoken.insert(0, ("system", SYSTEM + documents))
    # letters keep the template from trimming what stands at the edges of our own composition
    hidden = {f"text{index}of": text for index, (_, text) in enumerate(spoken)}
    pins = {"date_string": "26 Jul 2024", "strftime_now": datetime.datetime(2024, 7, 26).strftime}
    rendered = tokenizer.apply_chat_template(
        [{"role": role, "content": mark} for (role, _), mark in zip(spoken, hidden, strict=True)],
        tokenize=False,
        add_generation_prompt=True,
        **pins,
    )
    control = set(tokenizer.convert_tokens_to_ids([*CONTROL, "<|User|>", "<|Assistant|>"]))
    expected = sum(rendered.count(token) for token in tokenizer.convert_ids_to_tokens(control))
    if name != "unmarked":  # elsewhere these two are ordinary added tokens
        control -= set(tokenizer.convert_tokens_to_ids(["<|User|>", "<|Assistant|>"]))
    assert sum(token in control for token in prompt.token_ids) == expected
    for mark, text in hidden.items():
        rendered = rendered.replace(mark, text)
    assert decode(name, prompt) == rendered


@settings(deadline=None, max_examples=50)
@given(names, texts, texts, passages)
def test_changing_the_question_changes_no_key_before_it(
    name: str, question: str, other: str, found: list[ScoredPassage]
) -> None:
    one = BUILDERS[name].documents_first([user(question)], found, domain=ALICE)
    two = BUILDERS[name].documents_first(dialogue([(question, "so")], other), found, domain=ALICE)
    assert one.segments[:-1] == two.segments[:-1]
    assert one.segments[-1].key != two.segments[-1].key


@settings(deadline=None, max_examples=50)
@given(names, st.lists(st.sampled_from([RAIN, SNOW, HAIL]), unique_by=id), texts)
def test_document_ids_never_depend_on_their_neighbours(
    name: str, found: list[ScoredPassage], question: str
) -> None:
    alone = {}
    for scored in (RAIN, SNOW, HAIL):
        alone |= document_segments(BUILDERS[name].documents_first([user("x")], [scored], domain=BOB))
    among = document_segments(BUILDERS[name].documents_first([user(question)], found, domain=ALICE))
    assert among == {scored.passage.text: alone[scored.passage.text] for scored in found}


def test_document_ids_carry_no_rank() -> None:
    assert "Source: rain.txt\nrain falls" in decode("chatml", ask([SNOW, RAIN]))


def ask(found: list[ScoredPassage], *, domain: DomainTag = ALICE, question: str = "why?") -> Prompt:
    return BUILDERS["chatml"].documents_first([user(question)], found, domain=domain)


def test_tenants_share_public_segments_and_nothing_else() -> None:
    one, two = ask([RAIN, SNOW], domain=ALICE), ask([RAIN, SNOW], domain=BOB)
    document, turn = SegmentKind.DOCUMENT, SegmentKind.TURN
    assert kinds(one) == [SegmentKind.SYSTEM, document, document, turn, turn]
    assert [s.domain for s in one.segments] == [PUBLIC, PUBLIC, PUBLIC, PUBLIC, ALICE]
    assert [a.key == b.key for a, b in zip(one.segments, two.segments, strict=True)] == [True] * 4 + [False]


def test_text_after_the_documents_is_the_same_for_every_question_and_only_with_documents() -> None:
    builder = make_builder(after_documents="Here they end.")
    one = builder.documents_first([user("why?")], [RAIN], domain=ALICE)
    two = builder.documents_first([user("where to?"), assistant("there"), user("why?")], [RAIN], domain=BOB)
    assert [s.key for s in one.segments[:3]] == [s.key for s in two.segments[:3]]
    assert decode("chatml", one).count("Here they end.") == 1
    assert "Here they end." not in decode("chatml", builder.documents_first([user("why?")], [], domain=ALICE))


def test_domain_is_narrowed_behind_a_private_document() -> None:
    private = passage("a secret", domain=BOB)
    prompt = ask([private, RAIN], domain=ALICE)
    assert [s.domain for s in prompt.segments] == [PUBLIC, BOB, BOB, BOB, DomainTag("alice+bob")]
    assert prompt.segments[2].key != ask([RAIN]).segments[1].key


def test_system_text_is_the_tenants_when_the_client_brings_it() -> None:
    builder = BUILDERS["chatml"]
    messages = [Message("system", "Be"), Message("system", "brief."), user("why?")]
    prompt = builder.documents_first(messages, [RAIN], domain=ALICE)
    assert {s.domain for s in prompt.segments} == {ALICE}
    assert "<|im_start|>system\nBe\n\nbrief.\n\nSource" in decode("chatml", prompt)


def test_system_segment_is_the_same_with_and_without_documents() -> None:
    for builder in BUILDERS.values():
        empty = builder.documents_first([user("why?")], [], domain=ALICE)
        full = builder.documents_first([user("why?")], [RAIN], domain=ALICE)
        assert empty.segments[0] == full.segments[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_opening_is_what_every_prompt_of_these_messages_begins_with(name: str) -> None:
    for messages in ([user("why?")], [Message("system", "Be brief."), user("why?")]):
        opening = BUILDERS[name].opening(messages, domain=ALICE)
        for found in ([], [RAIN, SNOW]):
            prompt = BUILDERS[name].documents_first(messages, found, domain=ALICE)
            assert prompt.segments[: len(opening.segments)] == opening.segments


def test_default_system_text_of_the_template_is_never_used() -> None:
    prompt = make_builder(system="").documents_first([user("why?")], [], domain=ALICE)
    assert "Tiny" not in decode("chatml", prompt)


def test_question_stands_apart_from_what_is_folded_before_it_and_only_then() -> None:
    builder = make_builder("gemma", system="")
    with_documents = builder.documents_first([user("why?")], [RAIN], domain=ALICE)
    without = builder.documents_first([user("why?")], [], domain=ALICE)
    assert "rain falls\n\nwhy?" in decode("gemma", with_documents)
    assert "user\nwhy?" in decode("gemma", without)


def test_documents_follow_the_cached_path_and_citations_the_ranking() -> None:
    held = {segment.key for segment in ask([HAIL, RAIN]).segments}
    order = CacheOrder(lambda key: 1 if key in held else 0)
    prompt = BUILDERS["chatml"].documents_first([user("so?")], [RAIN, SNOW, HAIL], domain=BOB, order=order)
    assert list(document_segments(prompt)) == ["hail hurts", "rain falls", "snow melts"]
    assert prompt.citations == (RAIN, SNOW, HAIL)


@given(st.integers(0, 60), st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_documents_are_dropped_from_the_tail_when_the_budget_is_small(spare: int, max_tokens: int) -> None:
    ranked = [passage(f"{number} " + "snow " * number) for number in (4, 9, 1, 2)]
    bare = ask([]).tokens
    builder = make_builder(max_context_tokens=bare + max_tokens + spare)
    prompt = builder.documents_first([user("why?")], ranked, domain=ALICE, max_tokens=max_tokens)
    kept = len(prompt.citations)
    assert prompt.citations == tuple(ranked[:kept])
    assert prompt.dropped == tuple(scored.passage for scored in ranked[kept:])
    assert builder.remaining_tokens(prompt) >= max_tokens
    if kept < len(ranked):
        assert ask(ranked[: kept + 1]).tokens + max_tokens > bare + max_tokens + spare


def test_default_answer_budget_shrinks_to_what_is_left_when_messages_are_long() -> None:
    bare = ask([]).tokens
    builder = make_builder(max_context_tokens=bare + 3)
    prompt = builder.documents_first([user("why?")], [RAIN], domain=ALICE)
    assert builder.remaining_tokens(prompt) == 3
    assert prompt.dropped == (RAIN.passage,)


@pytest.mark.parametrize(
    ("context", "max_tokens", "remedy"), [(0, None, "shorten"), (5, 6, "lower max_tokens")]
)
def test_request_is_refused_when_it_does_not_fit_without_documents(
    context: int, max_tokens: int | None, remedy: str
) -> None:
    bare = ask([]).tokens
    builder = make_builder(max_context_tokens=bare + context)
    with pytest.raises(BadRequest, match=f"{bare + context} tokens.*take {bare} .*{remedy}") as caught:
        builder.documents_first([user("why?")], [RAIN], domain=ALICE, max_tokens=max_tokens)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_request_is_refused_without_tokenizing_when_it_is_far_too_long() -> None:
    question = "snow " * 2_000_000
    with pytest.raises(BadRequest, match="10000000 characters") as caught:
        BUILDERS["chatml"].documents_first([user(question)], [], domain=ALICE)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "messages",
    [[], [Message("system", "x")], [user("a"), assistant("b")], [Message("tool", "x"), user("a")]],
    ids=["empty", "system only", "answer last", "unknown role"],
)
def test_request_is_refused_when_its_messages_ask_nothing(messages: list[Message]) -> None:
    with pytest.raises(BadRequest) as caught:
        BUILDERS["chatml"].documents_first(messages, [], domain=ALICE)
    assert caught.value.param == "messages"


def answered(name: str, prompt: Prompt, text: str) -> Earlier:
    """As an engine ends it: with the end-of-turn token."""
    tokenizer = model(name)[0]
    return Earlier(prompt, (*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id))


@settings(deadline=None, max_examples=50)
@given(names, passages, passages, passages, texts)
def test_appended_begins_with_the_earlier_prompt_and_answer(
    name: str,
    first: list[ScoredPassage],
    second: list[ScoredPassage],
    third: list[ScoredPassage],
    question: str,
) -> None:
    builder = BUILDERS[name]
    prompt = builder.documents_first([user("why?")], first, domain=ALICE)
    history = [("why?", "so")]
    for found in (second, third):
        earlier = answered(name, prompt, "so")
        longer = builder.appended(earlier, dialogue(history, question), found, domain=ALICE)
        assert longer is not None
        prefix = prompt.token_ids + list(earlier.answer_ids[:-1])
        assert longer.token_ids[: len(prefix)] == prefix
        assert longer.segments[: len(prompt.segments)] == prompt.segments
        check_keys(longer)
        joiner = model(name)[1].turn.joiner  # type: ignore[union-attr]
        assert decode(name, longer).startswith(decode(name, prompt) + "so" + joiner)
        assert len(document_segments(longer)) == len({s.passage.text for s in (*prompt.citations, *found)})
        history.append((question, "so"))
        prompt = longer


def test_appended_equals_documents_first_when_no_documents_are_involved() -> None:
    """A conversation laid out turn by turn reads as the template would render it at once."""
    for name in sorted(TEMPLATES.keys() - {"mistral"}):  # whose answers begin with a space of their own
        builder = BUILDERS[name]
        prompt = builder.documents_first([user("a")], [], domain=ALICE)
        longer = builder.appended(answered(name, prompt, "b"), dialogue([("a", "b")], "c"), [], domain=ALICE)
        assert longer is not None
        whole = builder.documents_first(dialogue([("a", "b")], "c"), [], domain=ALICE)
        assert longer.token_ids == whole.token_ids


def test_appended_cites_what_the_earlier_prompt_holds_and_does_not_repeat_it() -> None:
    prompt = ask([RAIN, SNOW])
    messages = dialogue([("why?", "so")], "and?")
    longer = BUILDERS["chatml"].appended(
        answered("chatml", prompt, "so"), messages, [HAIL, SNOW], domain=ALICE
    )
    assert longer is not None
    assert kinds(longer)[-4:] == [
        SegmentKind.ANSWER,
        SegmentKind.TURN,
        SegmentKind.DOCUMENT,
        SegmentKind.TURN,
    ]
    assert list(document_segments(longer)) == ["rain falls", "snow melts", "hail hurts"]
    assert longer.citations == (HAIL, SNOW, RAIN)


def test_appended_drops_new_documents_only_when_the_budget_is_small() -> None:
    prompt = ask([RAIN])
    messages = dialogue([("why?", "so")], "and?")
    earlier = answered("chatml", prompt, "so")
    full = BUILDERS["chatml"].appended(earlier, messages, [SNOW, RAIN, HAIL], domain=ALICE)
    assert full is not None
    builder = make_builder(max_context_tokens=full.tokens + 9)
    tight = builder.appended(earlier, messages, [SNOW, RAIN, HAIL], domain=ALICE, max_tokens=10)
    assert tight is not None
    assert tight.dropped == (HAIL.passage,)
    assert tight.citations == (SNOW, RAIN)


def test_appended_is_none_when_the_question_does_not_fit() -> None:
    prompt = ask([RAIN])
    builder = make_builder(max_context_tokens=prompt.tokens + 8)
    earlier = answered("chatml", prompt, "so")
    assert builder.appended(earlier, dialogue([("why?", "so")], "and?"), [], domain=ALICE) is None


def test_appended_is_none_when_the_template_numbers_its_messages() -> None:
    builder = make_builder(COUNTED)
    prompt = builder.documents_first([user("why?")], [], domain=ALICE)
    earlier = answered(COUNTED, prompt, "so")
    assert builder.appended(earlier, dialogue([("why?", "so")], "and?"), [], domain=ALICE) is None


def test_appended_keeps_the_answer_whole_when_it_was_cut_by_length() -> None:
    prompt = ask([])
    ids = answered("chatml", prompt, "so it is").answer_ids[:-1]
    messages = dialogue([("why?", "so it is")], "and?")
    longer = BUILDERS["chatml"].appended(Earlier(prompt, ids), messages, [], domain=ALICE)
    assert longer is not None
    assert next(s for s in longer.segments if s.kind is SegmentKind.ANSWER).token_ids == ids


def test_long_document_is_laid_out_but_not_remembered() -> None:
    builder = make_builder(next(iter(TEMPLATES)))
    remembered = builder._document_ids.cache_info  # type: ignore[attr-defined]
    for text, size in (("short " * 10, 1), ("long " * 10_000, 1)):
        builder.documents_first([user("why?")], [passage(text)], domain=ALICE, max_tokens=1)
        assert remembered().currsize == size
