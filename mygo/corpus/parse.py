"""Bytes of a document -> readable text. Decides by file extension first, then by content."""

from __future__ import annotations

import codecs
import io
import re
from pathlib import PurePath

from pypdf import PdfReader
from pypdf.errors import DependencyError

from mygo.corpus.html import html_to_text
from mygo.errors import UnparsableDocument

MARKDOWN_EXTENSIONS = frozenset({".md", ".markdown", ".mdx"})
HTML_EXTENSIONS = frozenset({".html", ".htm", ".xhtml"})
PDF_EXTENSIONS = frozenset({".pdf"})
# fmt: off
TEXT_EXTENSIONS = frozenset({
    ".txt", ".text", ".log", ".rst", ".adoc", ".tex", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml",
    ".yml", ".toml", ".ini", ".cfg", ".sql", ".py", ".pyi", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".java",
    ".kt", ".scala", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".rs", ".rb", ".php", ".pl",
    ".swift", ".lua", ".r", ".jl", ".sh", ".bash", ".ps1", ".css", ".proto", ".graphql", ".tf",
})
# fmt: on
SUPPORTED_EXTENSIONS = frozenset(MARKDOWN_EXTENSIONS | HTML_EXTENSIONS | PDF_EXTENSIONS | TEXT_EXTENSIONS)
"""What is certain to be understood. Any other file is accepted too if it is text in UTF-8 or UTF-16."""

_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"{\\rtf", "an RTF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "an executable"),
    (b"SQLite format 3\x00", "a SQLite database"),
)
# UTF-32's little-endian BOM begins with UTF-16's, so it is looked for first (and refused).
_UTF32_BOMS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b\x1a"))
_BINARY_CONTROL_SHARE = 0.05
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w-]{1,40})""", re.IGNORECASE)
_HTML_START = re.compile(rb"\s*(<!--.{0,2000}?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)


def parse(filename: str, data: bytes) -> str:
    """The text of a document, with ``\\n`` line ends.

    HTML loses its markup (see ``html_to_text``), PDF pages are joined by a blank line, everything
    else is returned as it reads. Raises UnparsableDocument, naming the file, the reason and what to do.
    """
    if not data.strip():
        raise _unparsable(filename, "is empty", "Upload a file that contains text.")
    extension = extension_of(filename)
    if extension in PDF_EXTENSIONS or data.startswith(b"%PDF-"):
        text = _pdf_text(filename, data)
    else:
        html = extension in HTML_EXTENSIONS or (
            extension not in SUPPORTED_EXTENSIONS and _HTML_START.match(data) is not None
        )
        text = _decode(filename, data, html=html)
        if html:
            try:
                text = html_to_text(text)
            except ValueError as error:
                raise _unparsable(
                    filename, f"is too complex: {error}", "Save it as simpler HTML or text."
                ) from error
    text = _well_formed(text)
    if not text.strip():
        raise _unparsable(filename, "contains no text", "Upload a file that contains text.")
    return text


def is_markdown(filename: str) -> bool:
    """Whether the text of this file should be split at Markdown's headings and blocks."""
    return extension_of(filename) in MARKDOWN_EXTENSIONS


def extension_of(filename: str) -> str:
    """Lower case, with its dot; empty if there is none."""
    return PurePath(filename).suffix.lower()


def _decode(filename: str, data: bytes, *, html: bool) -> str:
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            raise _unparsable(filename, f"is {kind}, an unsupported type", _supported_types())
    encodings = ["utf-8-sig"]  # also reads UTF-8 without a byte order mark
    if data.startswith(_UTF16_BOMS) and not data.startswith(_UTF32_BOMS):
        encodings = ["utf-16"]
    elif html and (declared := _META_CHARSET.search(data[:4096])):
        encodings.append(declared.group(1).decode("ascii"))
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except (UnicodeError, LookupError):
            continue
        if encoding != "utf-16" and _looks_binary(data):
            break
        return text
    if _looks_binary(data):
        raise _unparsable(filename, "is binary, an unsupported type", _supported_types())
    raise _unparsable(
        filename,
        "has a wrong encoding (neither UTF-8 nor UTF-16 with a byte order mark)",
        f"Convert it first, for example: iconv -f latin1 -t utf-8 {PurePath(filename).name!r}.",
    )


def _looks_binary(data: bytes) -> bool:
    controls = len(data) - len(data.translate(None, _CONTROL_BYTES))
    return b"\x00" in data or controls > _BINARY_CONTROL_SHARE * len(data)


def _pdf_text(filename: str, data: bytes) -> str:
    # pypdf meets hostile input with whatever its parsing trips over (KeyError, RecursionError,
    # struct.error, ...), so every exception here means the same: this is not a readable PDF.
    try:
        reader = PdfReader(io.BytesIO(data))
        # An empty password opens files that only restrict printing or copying.
        locked = reader.is_encrypted and not reader.decrypt("")
        pages = [] if locked else [page.extract_text() for page in reader.pages]
    except DependencyError as error:
        raise _unparsable(
            filename, f"is an encrypted PDF that cannot be opened ({error})", "Save it without encryption."
        ) from error
    except Exception as error:
        raise _unparsable(
            filename,
            f"is not a readable PDF ({type(error).__name__}: {error})",
            "Open it in a PDF viewer and save it again, or upload its text.",
        ) from error
    if locked:
        raise _unparsable(filename, "is an encrypted PDF", "Remove the password and upload it again.")
    text = "\n\n".join(page.strip() for page in pages)
    if not text.strip():
        raise _unparsable(
            filename,
            f"is a PDF without text ({len(pages)} pages, probably scanned images)",
            "Run OCR on it first (for example ocrmypdf) and upload the result.",
        )
    return text


def _well_formed(text: str) -> str:
    """Unix line ends, no NUL, no lone surrogates (PDF fonts produce both): storable as UTF-8."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _supported_types() -> str:
    return f"Supported: UTF-8 text of any kind and {', '.join(sorted(SUPPORTED_EXTENSIONS))}."


def _unparsable(filename: str, reason: str, remedy: str) -> UnparsableDocument:
    return UnparsableDocument(f"{filename!r} {reason}. {remedy}", param="file", code="unsupported_file")
