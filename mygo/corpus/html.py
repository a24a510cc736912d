"""HTML -> plain text that reads like the page: headings, paragraphs, lists, tables, code."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

_DROPPED = frozenset({"script", "style", "nav", "noscript", "template", "svg", "iframe", "object"})
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
# fmt: off
_PARAGRAPHS = frozenset({
    "p", "div", "section", "article", "main", "header", "footer", "aside", "blockquote", "pre", "ul", "ol",
    "dl", "table", "figure", "form", "fieldset", "details", "address", "hr",
})
# fmt: on
_LINES = frozenset({"li", "tr", "dt", "dd", "caption", "figcaption", "summary", "legend", "option"})
_CELLS = frozenset({"td", "th"})
# Elements that do not nest by themselves: their end tag is optional, or they have none, or (the second
# group, of SVG and MathML) they are written self-closing.
# fmt: off
_UNCLOSED = frozenset({
    "area", "base", "body", "br", "col", "colgroup", "dd", "dt", "embed", "head", "hr", "html", "img",
    "input", "li", "link", "meta", "optgroup", "option", "p", "param", "rp", "rt", "source", "tbody", "td",
    "tfoot", "th", "thead", "tr", "track", "wbr",
    "animate", "circle", "ellipse", "image", "line", "mspace", "path", "polygon", "polyline", "rect",
    "stop", "use",
})
# fmt: on
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)")
_MAX_DEPTH = 1000
_WHITESPACE = re.compile(r"[ \t\n\r\f]+")


def html_to_text(html: str) -> str:
    """Readable text of a page: whitespace collapsed except in ``<pre>``, list items marked ``-``.

    Two blank lines stand before a heading and one between paragraphs, so that a splitter which
    prefers longer runs of newlines cuts at headings first. Raises ValueError if tags nest too deeply:
    HTML's parsing rules make a parser take time quadratic in the depth, hours for a hostile megabyte.
    """
    if _depth(html) > _MAX_DEPTH:
        raise ValueError(f"its tags nest more than {_MAX_DEPTH} deep")
    parser = LexborHTMLParser(html)
    writer = _Writer()
    title = parser.css_first("head title")
    if title is not None and parser.css_first("h1") is None:
        writer.text(title.text())
        writer.newlines(2)
    if parser.body is not None:
        _write(parser.body, writer)
    return writer.finish()


def _depth(html: str) -> int:
    """How deep the elements nest, judged by their tags alone: enough to stop accidents and plain bombs."""
    depth = deepest = 0
    for match in _TAG.finditer(html):
        closing, name = match.groups()
        if name.lower() not in _UNCLOSED:
            depth = max(0, depth - 1) if closing else depth + 1
            deepest = max(deepest, depth)
    return deepest


def _write(root: LexborNode, writer: _Writer) -> None:
    # An explicit stack: the depth of a page's nesting is the page author's choice, not ours.
    stack: list[tuple[LexborNode, bool]] = [(root, True)]
    while stack:
        node, opening = stack.pop()
        tag = node.tag or ""
        if not opening:
            writer.close(tag)
            continue
        if tag == "-text":
            writer.text(node.text_content or "")
            continue
        if tag in _DROPPED:
            continue
        writer.open(tag)
        stack.append((node, False))
        child = node.last_child
        while child is not None:
            stack.append((child, True))
            child = child.prev


class _Writer:
    """Gathers text; line breaks are owed until the next word, so that they never pile up."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._owed_newlines = 0
        self._owed_space = False
        self._owed_marker = ""
        self._pre_depth = 0

    def newlines(self, count: int) -> None:
        self._owed_newlines = max(self._owed_newlines, count)
        self._owed_space = False

    def open(self, tag: str) -> None:
        if tag in _HEADINGS:
            self.newlines(3)
        elif tag in _PARAGRAPHS:
            self.newlines(2)
        elif tag in _LINES:
            self.newlines(1)
            self._owed_marker = "- " if tag == "li" else self._owed_marker
        elif tag == "br":
            if self._pre_depth:
                self._write("\n")
            else:
                self.newlines(1)
        elif tag in _CELLS and not self._owed_newlines:
            self._write("\t")
        self._pre_depth += tag == "pre"

    def close(self, tag: str) -> None:
        self._pre_depth -= tag == "pre"
        if tag in _HEADINGS or tag in _PARAGRAPHS:
            self.newlines(2)
        elif tag in _LINES:
            self.newlines(1)
            self._owed_marker = ""  # of a list item without text

    def text(self, text: str) -> None:
        if self._pre_depth:
            self._write(text)
            return
        words = _WHITESPACE.sub(" ", text)
        if words.startswith(" "):
            self._owed_space = True
        if core := words.strip(" "):
            self._write(core)
            self._owed_space = words.endswith(" ")

    def finish(self) -> str:
        return "".join(self._parts).strip()

    def _write(self, text: str) -> None:
        if self._owed_newlines and self._parts:
            self._parts.append("\n" * self._owed_newlines)
        elif self._owed_space and self._parts and not self._parts[-1].endswith((" ", "\t", "\n")):
            self._parts.append(" ")
        self._parts.append(self._owed_marker + text)
        self._owed_newlines = 0
        self._owed_space = False
        self._owed_marker = ""
