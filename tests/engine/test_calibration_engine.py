"""Calibration in a real vLLM: what it is made to say, what it reuses, and a whole run that goes on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chunk_prompts import Words, save_keen_model
from tiny_engine import VOCABULARY, words
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from mygo.blend.selection import Method, Repair
from mygo.calibration.records import CACHE_ORDER, EXACT, Outcome
from mygo.cli.calibrate import Wish, run
from mygo.config import Config, parse
from mygo.types import (
    PUBLIC,
    ContentHash,
    DocId,
    Passage,
    Prompt,
    Segment,
    SegmentKey,
    SegmentKind,
    Tier,
)

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_in_process")]

SYSTEM_TOKENS = 40
DOCUMENT_TOKENS = 64
PROMPTS = 50
ANSWER_TOKENS = 16
ROUNDING = 2e-4
"""Largest difference of log probabilities between float32 runs that compute in steps of other sizes."""
TEMPLATE = (
    "{% for m in messages %}<|start|> {{ m['role'] }} {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|start|> assistant {% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer that makes a token of each word."""
    folder = save_keen_model(tmp_path_factory.mktemp("keen-model"))
    control = ["<|start|>", "<|end|>", "<|unknown|>"]
    vocabulary = {word: number for number, word in enumerate([*control, "user", "assistant", "system"])}
    vocabulary |= {f"w{number}": number for number in range(len(vocabulary), VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(control)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<|unknown|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(model: Path) -> Config:
    return parse(
        {
            "model": {
                "source": str(model),
                "dtype": "float32",
                "max_context_tokens": 1024,
                "kv_cache_bytes": 2**26,
                "block_tokens": 32,
            },
            "corpus": {"chunk_tokens": DOCUMENT_TOKENS},
        }
    )


@pytest.fixture(scope="module")
def engine(config: Config, model: Path) -> Iterator[Any]:
    from mygo.calibration.engine import BlendEngine

    engine = BlendEngine(config, model)
    yield engine
    engine.close()


def prompt(documents: tuple[Words, ...], question: Words) -> Prompt:
    """Behind the same system prompt."""
    system = words(random.Random(1), SYSTEM_TOKENS)
    segments = [_segment(SegmentKind.SYSTEM, system, system)]
    path = system
    for document in documents:
        path += document
        passage = Passage(DocId("d"), 0, "", ContentHash(f"{hash(document):x}"))
        segments.append(replace(_segment(SegmentKind.DOCUMENT, document, path), passage=passage))
    return Prompt((*segments, _segment(SegmentKind.TURN, question, path + question)))


def _segment(kind: SegmentKind, ids: Words, path: Words) -> Segment:
    return Segment(kind, ids, SegmentKey(f"{hash(path) % 2**64:032x}"), PUBLIC)


def drawn(seed: int, documents: int = 3) -> tuple[tuple[Words, ...], Words]:
    rng = random.Random(seed)
    return tuple(words(rng, DOCUMENT_TOKENS) for _ in range(documents)), words(rng, 9)


def first_tokens(share: float) -> Repair:
    return Repair(share, floor_tokens=0)


def test_likelihood_is_that_of_each_token_behind_those_before_it(engine: Any) -> None:
    from mygo.calibration.engine import Asked

    engine.forget(chunks=True)
    documents, question = drawn(2)
    said = (17, 2000, 5, 444)
    (answer,) = engine.answer([Asked(prompt(documents, question), said=said)])
    assert answer.token_ids == said
    nats = []
    for place, token in enumerate(said):
        (there,) = engine.answer([Asked(prompt(documents, question + said[:place]), said=(token,))])
        assert np.exp(there.first).sum() == pytest.approx(1)
        nats.append(-float(there.first[token]))
        assert there.nats == pytest.approx(nats[-1])
    assert answer.nats == pytest.approx(np.mean(nats), abs=ROUNDING)
    (own,) = engine.answer([Asked(prompt(documents, question))])
    assert own.token_ids == (int(answer.first.argmax()),)


def test_answers_are_blended_as_each_request_asks(engine: Any) -> None:
    from mygo.calibration.engine import Asked

    engine.forget(chunks=True)
    documents, question = drawn(3, documents=4)
    engine.answer([Asked(prompt(documents, question))])
    engine.forget(chunks=False)
    moved = prompt(documents[:0:-1], question)  # the first one is of use in its own place only
    shares = (0.0, 0.25, 0.5)
    asked = [Asked(moved, first_tokens(share), said=(9,)) for share in shares]
    answers = engine.answer([*asked, Asked(moved, said=(9,))])
    tokens = 3 * DOCUMENT_TOKENS
    system = SYSTEM_TOKENS // 32 * 32
    for share, answer in zip(shares, answers, strict=False):
        loaded = round((1 - share) * tokens)
        assert answer.cached_tokens in (loaded, loaded + system)
    assert answers[-1].cached_tokens in (0, system)
    nats = [answer.nats for answer in answers]
    assert len({round(each, 3) for each in nats}) == len(nats)


def test_methods_share_blocks_only_where_they_compute_the_same_tokens(engine: Any) -> None:
    from mygo.calibration.engine import Asked

    engine.forget(chunks=True)
    documents, question = drawn(4)
    engine.answer([Asked(prompt(documents, question))])
    engine.forget(chunks=False)
    moved = prompt(documents[:0:-1], question)
    (first,) = engine.answer([Asked(moved, first_tokens(0.5), said=(9,))])
    (spread,) = engine.answer([Asked(moved, Repair(0.5, 0, Method.SPREAD), said=(9,))])
    # the system prompt's full block was found, and half of the documents loaded
    assert spread.cached_tokens == 32 + first.cached_tokens == 32 + DOCUMENT_TOKENS
    assert abs(first.nats - spread.nats) > 10 * ROUNDING
    (again,) = engine.answer([Asked(moved, Repair(0.5, DOCUMENT_TOKENS // 2, Method.SPREAD), said=(9,))])
    assert again.cached_tokens > 2 * DOCUMENT_TOKENS, "the same tokens as the first ones"
    assert again.nats == pytest.approx(first.nats, abs=ROUNDING)


def test_two_births_rank_a_documents_tokens_and_rankings_share_no_blocks(engine: Any) -> None:
    from mygo.calibration.engine import Asked
    from mygo.calibration.measure import kl

    engine.forget(chunks=True)
    documents, question = drawn(6, documents=4)
    there = prompt((documents[3], documents[2]), question)
    deviation = [Asked(there, Repair(0.25, 4, Method.DEVIATION), said=(9,))]

    def bear(neighbour: int) -> None:
        behind = [(documents[neighbour], documents[place]) for place in (2, 3)]
        engine.answer([Asked(prompt(both, question)) for both in behind])
        engine.forget(chunks=False)

    bear(0)
    (unranked,) = engine.answer(deviation)
    engine.forget(chunks=False)
    (first,) = engine.answer([Asked(there, first_tokens(0.25), said=(9,))])
    assert unranked.nats == pytest.approx(first.nats, abs=ROUNDING), "with one birth they are the first ones"

    engine.forget(chunks=False)
    bear(1)
    catalog = engine._llm.llm_engine.engine_core.engine_core.scheduler.connector._chunks._holdings._catalog
    ranked = [each for each in catalog._tiers[Tier.HOST].values() if each.variant.ranking is not None]
    assert len(ranked) == 2
    for entry in ranked:
        # what is just behind other text has seen most of it
        assert np.mean(entry.variant.ranking.order[:16]) < np.mean(entry.variant.ranking.order[-16:])
    (one,) = engine.answer(deviation)
    assert one.cached_tokens == DOCUMENT_TOKENS * 3 // 2
    assert abs(one.nats - first.nats) > 10 * ROUNDING
    # all but the token that depends least on what is before it
    (most,) = engine.answer([Asked(there, Repair(63 / 64, 4, Method.DEVIATION), said=(9,))])
    for entry in ranked:
        ranking = entry.variant.ranking
        entry.variant = replace(entry.variant, ranking=replace(ranking, order=ranking.order[::-1]))
    (other,) = engine.answer(deviation)
    assert other.cached_tokens == one.cached_tokens + 32, (
        "besides the system prompt's block, nothing is shared"
    )
    assert abs(other.nats - one.nats) > 10 * ROUNDING
    (every,) = engine.answer([Asked(there, Repair(1.0, 4, Method.DEVIATION), said=(9,))])
    engine.forget(chunks=True)
    (exact,) = engine.answer([Asked(there, said=(9,))])
    assert abs(most.nats - exact.nats) < abs(one.nats - exact.nats) / 2
    assert kl(exact.first, every.first) < 1e-6


def test_answers_are_exact_when_all_is_repaired(engine: Any) -> None:
    """Over 50 prompts with documents in another order: as near to a cold run as a plain prefix hit is. And
    the first token already where all but one token of each document is repaired."""
    from mygo.calibration.engine import Asked
    from mygo.calibration.measure import kl

    most = first_tokens((DOCUMENT_TOKENS - 1) / DOCUMENT_TOKENS)
    kls: dict[str, list[float]] = {"most": [], "all": []}
    same = {"hit": 0, "all": 0}
    for seed in range(PROMPTS):
        documents, question = drawn(100 + seed, documents=4)
        there = prompt(documents[:0:-1], question)
        engine.forget(chunks=True)
        engine.answer([Asked(prompt(documents, question))])
        engine.forget(chunks=False)
        (said,) = engine.answer([Asked(there, most, said=(9,))])
        assert said.cached_tokens == 3
        engine.forget(chunks=False)
        (blended,) = engine.answer([Asked(there, first_tokens(1.0), max_tokens=ANSWER_TOKENS)])
        (first,) = engine.answer([Asked(there, first_tokens(1.0), said=(9,))])
        engine.forget(chunks=True)
        (cold,) = engine.answer([Asked(there, max_tokens=ANSWER_TOKENS)])
        (hit,) = engine.answer([Asked(there, max_tokens=ANSWER_TOKENS)])
        assert cold.cached_tokens == 0 and hit.cached_tokens > 3 * DOCUMENT_TOKENS
        engine.forget(chunks=True)
        (exact,) = engine.answer([Asked(there, said=(9,))])
        kls["most"].append(kl(exact.first, said.first))
        kls["all"].append(kl(exact.first, first.first))
        same["hit"] += hit.token_ids == cold.token_ids
        same["all"] += blended.token_ids == cold.token_ids
    assert np.mean(kls["most"]) <= 0.01 and np.mean(kls["all"]) <= 1e-6
    assert same["all"] >= same["hit"]


def _question_set(folder: Path) -> Path:
    rng = random.Random(5)
    paragraphs = []
    for number in range(30):
        text = [f"w{word}" for word in words(rng, DOCUMENT_TOKENS - 4)]
        answer = " ".join(text[20:23])
        start = len(" ".join(text[:20])) + 1
        asked = {
            "id": f"q{number}",
            "question": "w7 w8",
            "answers": [{"text": answer, "answer_start": start}],
        }
        paragraphs.append({"context": " ".join(text), "qas": [asked]})
    path = folder / "set.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path


def test_calibration_goes_on_where_it_was_cut_off(engine: Any, config: Config, tmp_path: Path) -> None:
    engine.close()
    wish = Wish(
        paths=(),
        question_set=_question_set(tmp_path),
        folder=tmp_path / "out",
        count=24,
        documents=3,
        shares=(0.0, 0.25),
        methods=tuple(Method),
        gold_nats_bound=100.0,
        seed=0,
        plot=False,
    )
    found = run(config, wish)
    lines = (wish.folder / "outcomes.jsonl").read_text().splitlines()
    outcomes = [Outcome(**json.loads(line)) for line in lines]
    asked = {outcome.question for outcome in outcomes}
    assert len(outcomes) == 6 * len(asked) and len(asked) > 20
    for outcome in outcomes:
        tokens = outcome.computed_share * 3 * (DOCUMENT_TOKENS - 4)
        assert tokens == pytest.approx(round(tokens))
        if outcome.method == EXACT:
            assert (outcome.computed_share, outcome.first_token_kl, outcome.same) == (1, 0, True)
        elif outcome.method == CACHE_ORDER:
            assert outcome.computed_share == 1
        else:
            assert outcome.computed_share == pytest.approx(outcome.share)
            assert outcome.first_token_kl > 0
    means = {(line.method, line.share): line.kl for line in found.lines if line.documents == 1}
    assert all(means[method, 0.25] < means["first_tokens", 0.0] for method in Method)
    assert len({round(means[method, 0.25], 6) for method in Method}) == len(Method)
    reordered = [outcome.first_token_kl for outcome in outcomes if outcome.method == CACHE_ORDER]
    # one of six orders of three documents is the same
    assert len(asked) / 2 < sum(each > 1e-6 for each in reordered) < len(asked)

    (wish.folder / "outcomes.jsonl").write_text("\n".join(lines[:-7]) + "\n" + lines[-7][:30])
    again = run(config, wish)
    assert [line.questions for line in again.lines] == [line.questions for line in found.lines]
    assert again.lines[0].gold_nats == pytest.approx(found.lines[0].gold_nats, abs=ROUNDING)
