from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mygo.corpus import Chunker
from mygo.errors import ConfigError

TEXT = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            ["# Head\n\n", "```\ncode\n```\n", "- item\n", "\n\n", "the quick brown fox. ", "汉字"]
        ),
        st.integers(1, 300).map(lambda n: "x" * n),
    ),
    max_size=30,
).map("".join)


def squeezed(text: str) -> str:
    return "".join(text.split())


@settings(max_examples=60, deadline=None)
@example(text="0000000000\x80𐀀\x1f", chunk_tokens=16, markdown=False)
@given(text=TEXT, chunk_tokens=st.integers(16, 40), markdown=st.booleans())
def test_chunks_fit_and_cover_the_text_when_nothing_overlaps(
    tokenizer: Tokenizer, text: str, chunk_tokens: int, markdown: bool
) -> None:
    chunks = Chunker(tokenizer, chunk_tokens).chunks(text, markdown)
    for chunk in chunks:
        assert chunk.strip()
        assert len(tokenizer.encode(chunk, add_special_tokens=False).ids) <= chunk_tokens
    assert squeezed("".join(chunks)) == squeezed(text)


@settings(max_examples=40, deadline=None)
@given(text=TEXT, markdown=st.booleans())
def test_chunks_fit_and_cover_the_text_when_they_overlap(
    tokenizer: Tokenizer, text: str, markdown: bool
) -> None:
    chunks = Chunker(tokenizer, 20, 6).chunks(text, markdown)
    covered = 0
    rest = squeezed(text)
    for chunk in chunks:
        assert len(tokenizer.encode(chunk, add_special_tokens=False).ids) <= 20
        piece = squeezed(chunk)
        start = next(s for s in range(covered, -1, -1) if rest.startswith(piece, s))
        covered = max(covered, start + len(piece))
    assert covered == len(rest)


def test_chunks_overlap_when_asked_to(tokenizer: Tokenizer) -> None:
    words = " ".join(f"w{i}" for i in range(100))
    plain, overlapping = Chunker(tokenizer, 20).chunks(words), Chunker(tokenizer, 20, 8).chunks(words)
    assert len(overlapping) > len(plain)
    assert overlapping[1].split()[0] in overlapping[0].split()


def test_chunks_break_at_headings_when_the_text_is_markdown(tokenizer: Tokenizer) -> None:
    text = "# One\n\nthe quick brown fox\n\n# Two\n\nthe lazy dog\n"
    assert Chunker(tokenizer, 16).chunks(text, markdown=True) == [
        "# One\n\nthe quick brown fox",
        "# Two\n\nthe lazy dog",
    ]


def test_chunks_count_true_tokens_when_the_tokenizer_truncates_and_pads(tokenizer: Tokenizer) -> None:
    capped = Tokenizer.from_str(tokenizer.to_str())
    capped.enable_truncation(8)
    capped.enable_padding(length=8)
    text = "the quick brown fox jumps over the lazy dog. " * 20
    assert Chunker(capped, 16).chunks(text) == Chunker(tokenizer, 16).chunks(text)
    assert capped.truncation is not None  # the caller's own is left alone


def test_chunks_take_linear_time_when_the_text_has_no_breaks(tokenizer: Tokenizer) -> None:
    chunker = Chunker(tokenizer, 16)

    def cpu_s(text: str) -> float:
        start = time.process_time()
        chunker.chunks(text)
        return time.process_time() - start

    cpu_s("y" * 4_000)
    assert cpu_s("z" * 64_000) < 40 * max(cpu_s("z" * 8_000), 1e-3)


@pytest.mark.parametrize(("chunk_tokens", "overlap_tokens"), [(15, 0), (32, 32), (32, -1)])
def test_chunker_refuses_when_the_sizes_make_no_sense(
    tokenizer: Tokenizer, chunk_tokens: int, overlap_tokens: int
) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.\w+_tokens"):
        Chunker(tokenizer, chunk_tokens, overlap_tokens)
