"""Text -> passages of bounded token count, cut where a reader would cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from mygo.corpus.parse import is_markdown, parse
from mygo.errors import ConfigError

_MIN_CHUNK_TOKENS = 16  # one grapheme may take several byte-level tokens; it has to fit
_WINDOW_CHARS_PER_TOKEN = 64
_BREAKS = ("\n\n\n", "\n\n", "\n", " ")


class Chunker:
    """Splits text into chunks of at most ``chunk_tokens`` tokens of the served model's tokenizer.

    Tokens are counted without special tokens, as the prompt counts them. Safe to use from several
    threads: splitting releases the interpreter lock and keeps no state.
    """

    def __init__(self, tokenizer: Tokenizer, chunk_tokens: int, overlap_tokens: int = 0) -> None:
        if chunk_tokens < _MIN_CHUNK_TOKENS:
            raise ConfigError(
                f"corpus.chunk_tokens: must be at least {_MIN_CHUNK_TOKENS} (got {chunk_tokens})"
            )
        if not 0 <= overlap_tokens < chunk_tokens:
            raise ConfigError(
                f"corpus.overlap_tokens: must be at least 0 and less than corpus.chunk_tokens,"
                f" which is {chunk_tokens} (got {overlap_tokens})"
            )
        # A copy: truncation would hide how long a chunk is, padding would inflate it.
        counter = Tokenizer.from_str(tokenizer.to_str())
        counter.no_truncation()
        counter.no_padding()
        self.chunk_tokens = chunk_tokens
        self.overlap_tokens = overlap_tokens
        self._window_chars = chunk_tokens * _WINDOW_CHARS_PER_TOKEN
        self._text = TextSplitter.from_huggingface_tokenizer(counter, chunk_tokens, overlap=overlap_tokens)
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(
            counter, chunk_tokens, overlap=overlap_tokens
        )

    def chunks(self, text: str, markdown: bool = False) -> list[str]:
        """Chunks in reading order, whitespace trimmed at both ends, none empty.

        Together they hold all of the text but whitespace at the cuts. Neighbours share at most
        ``overlap_tokens`` tokens. Whitespace alone gives no chunk.
        """
        splitter = self._markdown if markdown else self._text
        pieces = (piece for window in self._windows(text) for piece in splitter.chunks(window))
        # Python counts the separators U+001C to U+001F as whitespace, the splitter does not.
        return [piece for piece in pieces if not piece.isspace()]

    def file_chunks(self, filename: str, data: bytes) -> list[str]:
        """Parse a file and split its text, at Markdown's borders if it is Markdown.

        Raises UnparsableDocument.
        """
        return self.chunks(parse(filename, data), markdown=is_markdown(filename))

    def _windows(self, text: str) -> Iterator[str]:
        """Pieces small enough to split in bounded time.

        The splitter searches for each cut over the rest of its input, which for text without
        sentence or line breaks is quadratic: minutes for a megabyte. Windows of some twenty chunks
        make it linear and cost at most one short chunk (and one overlap) each.
        """
        start = 0
        while len(text) - start > self._window_chars:
            limit = start + self._window_chars
            middle = start + self._window_chars // 2
            cut = limit
            for separator in _BREAKS:
                found = text.rfind(separator, middle, limit)
                if found >= 0:
                    cut = found
                    break
            yield text[start:cut]
            start = cut
        yield text[start:]


def load_file_chunks(
    tokenizer_file: Path, chunk_tokens: int, overlap_tokens: int
) -> Callable[[str, bytes], list[str]]:
    """``Chunker.file_chunks`` with the tokenizer of a ``tokenizer.json``; raises what ``Chunker`` raises."""
    return Chunker(Tokenizer.from_file(str(tokenizer_file)), chunk_tokens, overlap_tokens).file_chunks
