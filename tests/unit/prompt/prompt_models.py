"""Small real tokenizers with the chat templates of the field's families, and how to build with them."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mygo.prompt import ChatTemplate, Message, PromptBuilder
from mygo.tree.keys import root_key
from mygo.types import PUBLIC, ContentHash, DocId, DomainTag, Passage, Prompt, ScoredPassage, SegmentKind

CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are Tiny.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- bos_token + '<|im_start|>system<|sep|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{{- system + '<|im_end|>' }}"
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m['role'] + '<|sep|>\n\n' + m['content']|trim + '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|sep|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
# puts the system text into the last user message, behind the whole history
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "[INST] {{ system if loop.last else '' }}{{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
)
# its markers are added tokens that are not special, as DeepSeek's are
UNMARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% else %}<|Assistant|>{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}"
)
CLOCK = CHATML.replace("You are Tiny.", "").replace(
    "{% for m in messages %}", "It is {{ strftime_now('%Y-%m-%d %H:%M') }}.\n{% for m in messages %}", 1
)
COUNTED = CHATML.replace("{{ m['role'] }}\n", "{{ m['role'] }} {{ loop.index }} of {{ messages|length }}\n")
TEMPLATES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "unmarked": UNMARKED,
    "clock": CLOCK,
}
CONTROL = ("<|bos|>", "<|im_start|>", "<|im_end|>", "<|sep|>")
ALICE, BOB = DomainTag("alice"), DomainTag("bob")
ROOT = root_key(model="tiny", kv_dtype="float32")
SYSTEM = "Answer from the documents."

_CORPUS = [
    "the with statement is used to wrap the execution of a block",
    "Answer from the documents. Source: rain.txt snow falls in winter, rain in autumn",
    "x<|y|>z",
    "system user assistant model Today Date: 26 Jul 2024",
] * 20


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ("<|User|>", "<|Assistant|>")])
    text: str = tokenizer.to_str()
    return text


def make_tokenizer(chat_template: str | None) -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()), bos_token="<|bos|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@cache
def model(name: str) -> tuple[Any, ChatTemplate]:
    tokenizer = make_tokenizer(TEMPLATES.get(name, name))
    return tokenizer, ChatTemplate.from_tokenizer(tokenizer)


def make_builder(
    name: str = "chatml",
    *,
    max_context_tokens: int = 4096,
    system: str = SYSTEM,
    after_documents: str = "",
) -> PromptBuilder:
    tokenizer, template = model(name)
    return PromptBuilder(
        template,
        tokenizer,
        ROOT,
        max_context_tokens=max_context_tokens,
        system=system,
        after_documents=after_documents,
    )


def decode(name: str, prompt: Prompt) -> str:
    text: str = model(name)[0].decode(prompt.token_ids, clean_up_tokenization_spaces=False)
    return text


def passage(
    text: str, *, filename: str = "", domain: DomainTag = PUBLIC, score: float = 0.5
) -> ScoredPassage:
    content_hash = ContentHash(hashlib.sha256(text.encode()).hexdigest())
    return ScoredPassage(
        Passage(DocId(f"file-{content_hash[:6]}"), 0, text, content_hash, None, filename, domain), score
    )


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def kinds(prompt: Prompt) -> list[SegmentKind]:
    return [segment.kind for segment in prompt.segments]
