from __future__ import annotations

import io

import pytest
from pypdf import PdfReader, PdfWriter

from mygo.corpus import SUPPORTED_EXTENSIONS, is_markdown, parse
from mygo.errors import UnparsableDocument


def pdf(*pages: str) -> bytes:
    """A minimal PDF with one line of Helvetica per page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792]"
            f" /Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body = "%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    body += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return (
        body
        + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{body.index('xref')}\n%%EOF\n"
    ).encode("latin-1")


def encrypted_pdf(user_password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("secret words"))))
    writer.encrypt(user_password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("filename", "data"),
    [
        ("a.txt", "héllo\nwörld".encode()),
        ("a.txt", "héllo\r\nwörld".encode()),
        ("a.txt", "héllo\rwörld".encode("utf-8-sig")),
        ("a.txt", "héllo\nwörld".encode("utf-16")),
        ("a.txt", b"\xfe\xff" + "héllo\nwörld".encode("utf-16-be")),
        ("notes", "héllo\nwörld".encode()),
        ("a.unheard-of", "héllo\nwörld".encode()),
        ("A.MD", "héllo\nwörld".encode()),
    ],
)
def test_parse_returns_the_text_when_the_encoding_is_unicode(filename: str, data: bytes) -> None:
    assert parse(filename, data) == "héllo\nwörld"


def test_parse_keeps_markup_when_the_file_is_source_or_markdown() -> None:
    assert parse("a.md", b"# Title\n\n<b>x</b>") == "# Title\n\n<b>x</b>"
    assert parse("a.py", b"<html>\nif x:\n\ty()\n") == "<html>\nif x:\n\ty()\n"


def test_parse_reads_html_as_a_reader_does() -> None:
    page = b"""<!DOCTYPE html><html><head><title>T</title><style>p {}</style></head><body>
    <nav><a href=x>Home</a></nav><h1>The  <em>big</em>
    heading</h1><p>One<br>two&nbsp;&amp; <b>th</b>ree.</p><p>Four</p><script>evil()</script>
    <h2>Sub</h2><ul><li>a</li><li><p>b</p></li><li></li></ul><pre>x = 1
    y = 2</pre><table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2</td></tr></table>end<!-- no -->
    </body></html>"""
    assert parse("page.html", page) == (
        "The big heading\n\nOne\ntwo\N{NO-BREAK SPACE}& three.\n\nFour\n\n\nSub\n\n- a\n\n- b\n\n"
        "x = 1\n    y = 2\n\nk\tv\n1\t2\n\nend"
    )


def test_parse_begins_with_the_title_when_html_has_no_main_heading() -> None:
    assert parse("a.htm", b"<title>On foxes</title><p>They run.") == "On foxes\n\nThey run."


@pytest.mark.parametrize("filename", ["page", "page.aspx"])
def test_parse_recognises_html_when_the_extension_does_not_say(filename: str) -> None:
    assert parse(filename, b"<!-- c -->\n<!doctype html><p>hi") == "hi"


def test_parse_uses_the_declared_charset_when_html_is_not_utf8() -> None:
    page = '<meta http-equiv=x content="text/html; charset=windows-1252"><p>café “ok”'.encode("cp1252")
    assert parse("a.html", page) == "café “ok”"


def test_parse_reads_deep_and_unclosed_html_when_it_is_within_reason() -> None:
    assert parse("a.html", b"<div>" * 900 + b"deep") == "deep"
    assert parse("a.html", b"<ul>" + b"<li>item<br>" * 2000) == "\n".join(["- item"] * 2000)


def test_parse_joins_pages_when_the_file_is_a_pdf() -> None:
    assert parse("a.pdf", pdf("First page.", "Second page.")) == "First page.\n\nSecond page."
    assert parse("no-extension", pdf("Sniffed.")) == "Sniffed."


def test_parse_opens_a_pdf_when_only_its_permissions_are_locked() -> None:
    assert parse("a.pdf", encrypted_pdf("")) == "secret words"


@pytest.mark.parametrize(
    ("filename", "data", "reason"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t ", "is empty"),
        ("a.txt", b"\xef\xbb\xbf", "contains no text"),
        ("a.html", b"<p> </p><script>x</script>", "contains no text"),
        ("a.html", b"<div>" * 100_000, "more than 1000 deep"),
        ("a.bin", b"\x00\x01\x02words", "is binary"),
        ("a.txt", bytes(range(256)) * 4, "is binary"),
        ("a.txt", b"\xff\xfe\x00\x00a\x00\x00\x00", "is binary"),
        ("a.docx", b"PK\x03\x04....", "Office document"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "PNG image"),
        ("a.txt", "déjà vu".encode("latin-1"), "wrong encoding"),
        ("a.html", "<meta charset=made-up>déjà".encode("latin-1"), "wrong encoding"),
        ("a.pdf", b"this is no pdf at all", "not a readable PDF"),
        ("a.pdf", pdf("x")[:80], "not a readable PDF"),
        ("a.pdf", encrypted_pdf("password"), "encrypted PDF"),
        ("a.pdf", pdf(""), "PDF without text"),
    ],
)
def test_parse_names_file_and_reason_when_it_cannot_read(filename: str, data: bytes, reason: str) -> None:
    with pytest.raises(UnparsableDocument) as caught:
        parse(filename, data)
    message = str(caught.value)
    assert filename in message and reason in message
    assert message.endswith(".") and ". " in message  # what to do about it
    assert caught.value.code == "unsupported_file"


def test_parse_lists_what_is_supported_when_the_type_is_not() -> None:
    with pytest.raises(UnparsableDocument) as caught:
        parse("a.zip", b"PK\x03\x04")
    assert all(extension in str(caught.value) for extension in SUPPORTED_EXTENSIONS)


def test_is_markdown_depends_on_the_extension_alone() -> None:
    assert is_markdown("x/README.MD") and not is_markdown("README.txt") and not is_markdown("md")
