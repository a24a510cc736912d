from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prompt_models import ALICE, BOB, ROOT, SYSTEM, assistant, make_builder, passage, user

from mygo.prompt import Conversations, Earlier
from mygo.types import PUBLIC, ContentHash, DomainTag, Prompt, StoreId, TenantId

A, B = TenantId("alice"), TenantId("bob")
BUILDER = make_builder()
RAIN, SNOW = passage("rain falls"), passage("snow melts", domain=ALICE)
ASKED = [user("why?")]
BEFORE = [user("why?"), assistant("so")]


def prompt(*found: int) -> Prompt:
    documents = [(RAIN, SNOW)[number] for number in found]
    return BUILDER.documents_first(ASKED, documents, domain=ALICE)


PROMPTS = {found: prompt(*found) for found in ((), (0,), (1,), (0, 1))}


def remembering(*found: int, capacity: int = 3) -> Conversations:
    conversations = Conversations(capacity, root=ROOT, system=SYSTEM)
    conversations.remember(A, ASKED, PROMPTS[found], "so", [7, 8])
    return conversations


def test_turn_is_recalled_when_messages_and_tenant_are_the_same() -> None:
    assert remembering(0).recall(A, BEFORE) == Earlier(PROMPTS[(0,)], (7, 8))


def test_turn_is_not_recalled_when_anything_differs() -> None:
    conversations = remembering(0)
    assert conversations.recall(B, BEFORE) is None
    assert conversations.recall(A, ASKED) is None
    assert conversations.recall(A, [user("why?"), assistant("so ")]) is None
    assert conversations.recall(A, [assistant("why?"), user("so")]) is None
    assert conversations.recall(A, [user("why?assistant"), assistant("so")]) is None
    assert conversations.recall(A, BEFORE, stores=[StoreId("vs_1")]) is None


def test_turn_is_recalled_whatever_the_order_of_its_stores() -> None:
    one, two = StoreId("vs_1"), StoreId("vs_2")
    conversations = Conversations(3, root=ROOT, system=SYSTEM)
    conversations.remember(A, ASKED, PROMPTS[()], "so", [7], stores=[two, one])
    assert conversations.recall(A, BEFORE, stores=[one, two]) is not None


def test_turn_is_forgotten_when_a_document_in_it_is_deleted() -> None:
    conversations = remembering(0, 1)
    conversations.forget_document(ALICE, SNOW.passage.content_hash)
    assert conversations.recall(A, BEFORE) is None


def test_turn_is_not_remembered_when_too_much_was_deleted_since_it_was_asked_to_know() -> None:
    now_s = 0.0
    conversations = Conversations(3, root=ROOT, system=SYSTEM, clock=lambda: now_s)
    conversations.forget_document(ALICE, SNOW.passage.content_hash)
    for number in range(3):  # as many as turns fit
        now_s += 1.0
        conversations.forget_document(ALICE, ContentHash(str(number)))
    for came_s, remembered in ((0.0, False), (0.5, True)):
        conversations.remember(A, ASKED, PROMPTS[(0, 1)], "so", [7], came_s=came_s)
        assert (conversations.recall(A, BEFORE) is not None) == remembered


def test_turn_stays_when_the_same_text_is_deleted_in_another_domain() -> None:
    conversations = remembering(0, 1)
    conversations.forget_document(BOB, SNOW.passage.content_hash)
    assert conversations.recall(A, BEFORE) is not None


def test_turn_is_not_kept_when_its_document_was_deleted_while_it_was_answered() -> None:
    """Scenario: the prompt is built, the document deleted, the answer ends: it must not come back."""
    conversations = Conversations(3, root=ROOT, system=SYSTEM)
    conversations.forget_document(PUBLIC, RAIN.passage.content_hash)
    conversations.remember(A, ASKED, PROMPTS[(0,)], "so", [7])
    assert conversations.recall(A, BEFORE) is None
    conversations.admit_document(PUBLIC, RAIN.passage.content_hash)
    conversations.remember(A, ASKED, PROMPTS[(0,)], "so", [7])
    assert conversations.recall(A, BEFORE) is not None


def test_least_recently_used_turn_leaves_when_there_is_no_room() -> None:
    conversations = remembering(0, capacity=2)
    conversations.remember(A, [user("how?")], PROMPTS[()], "so", [7])
    conversations.recall(A, BEFORE)
    conversations.remember(A, [user("when?")], PROMPTS[()], "so", [7])
    assert conversations.recall(A, [user("how?"), assistant("so")]) is None
    assert conversations.recall(A, BEFORE) is not None


def test_nothing_is_remembered_when_capacity_is_zero() -> None:
    conversations = remembering(0, capacity=0)
    conversations.forget_document(PUBLIC, ContentHash("x"))
    assert conversations.recall(A, BEFORE) is None
    assert repr(conversations) == "Conversations(0/0, forgotten=0)"


class Model(RuleBasedStateMachine):
    """Against a plain list of (tenant, question, prompt), latest used last."""

    CAPACITY = 3
    tenants = st.sampled_from([A, B])
    questions = st.integers(0, 3)
    documents = st.sampled_from([(PUBLIC, RAIN.passage.content_hash), (ALICE, SNOW.passage.content_hash)])

    def __init__(self) -> None:
        super().__init__()
        self.real = Conversations(self.CAPACITY, root=ROOT, system=SYSTEM)
        self.turns: list[tuple[TenantId, int, Prompt]] = []
        self.dead: set[tuple[DomainTag, ContentHash]] = set()

    @rule(tenant=tenants, question=questions, found=st.sampled_from(list(PROMPTS)))
    def remember(self, tenant: TenantId, question: int, found: tuple[int, ...]) -> None:
        self.real.remember(tenant, [user(str(question))], PROMPTS[found], "so", [question])
        if not self.dead & {held_by(PROMPTS[found], index) for index in range(len(found))}:
            self.turns = [turn for turn in self.turns if turn[:2] != (tenant, question)]
            self.turns = [*self.turns, (tenant, question, PROMPTS[found])][-self.CAPACITY :]

    @rule(tenant=tenants, question=questions)
    def recall(self, tenant: TenantId, question: int) -> None:
        expected = [turn for turn in self.turns if turn[:2] == (tenant, question)]
        earlier = self.real.recall(tenant, [user(str(question)), assistant("so")])
        assert (earlier.prompt if earlier else None) == (expected[0][2] if expected else None)
        self.turns = [turn for turn in self.turns if turn not in expected] + expected

    @rule(document=documents)
    def forget(self, document: tuple[DomainTag, ContentHash]) -> None:
        self.real.forget_document(*document)
        self.dead.add(document)
        self.turns = [
            turn
            for turn in self.turns
            if document not in {held_by(turn[2], index) for index in range(len(turn[2].citations))}
        ]

    @rule(document=documents)
    def admit(self, document: tuple[DomainTag, ContentHash]) -> None:
        self.real.admit_document(*document)
        self.dead.discard(document)

    @invariant()
    def shows_its_size(self) -> None:
        assert repr(self.real) == f"Conversations({len(self.turns)}/3, forgotten={len(self.dead)})"


def held_by(prompt: Prompt, index: int) -> tuple[DomainTag, ContentHash]:
    passage = prompt.citations[index].passage
    return passage.domain, passage.content_hash


TestConversations = Model.TestCase
TestConversations.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
