"""Real text that every machine with this Python has: the docstrings of the standard library."""

from __future__ import annotations

import ast
import random
import sysconfig
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

_MODULES = """
    argparse asyncio/tasks asyncio/streams bisect calendar cmd codecs collections/__init__
    concurrent/futures/_base configparser contextlib csv ctypes/__init__ datetime decimal difflib
    doctest email/message enum fractions ftplib functools glob gzip heapq html/parser http/client
    http/cookiejar imaplib inspect ipaddress json/__init__ json/decoder locale logging/__init__
    logging/handlers mailbox mimetypes optparse os pathlib pdb pickle pickletools platform plistlib
    poplib pprint queue random sched selectors shlex shutil smtplib socket socketserver sqlite3/dbapi2
    ssl statistics string subprocess tarfile tempfile textwrap threading timeit trace traceback turtle
    typing unittest/case unittest/mock urllib/parse urllib/request uuid weakref xml/dom/minidom
    xmlrpc/client zipfile
"""
_CHARS_PER_TOKEN = 8
"""More than any stretch of these texts has, so that enough of it is cut at once."""


class Docstrings:
    """Cuts passages of a given number of tokens out of the docstrings, at random places."""

    def __init__(self, model_path: Path) -> None:
        """``model_path`` is the served model's folder; its tokenizer counts."""
        self._tokenizer = Tokenizer.from_file(str(model_path / "tokenizer.json"))
        self._text = _docstrings()

    def passage(self, rng: random.Random, tokens: int) -> str:
        """A stretch of about ``tokens`` tokens (a few per cent, as it is cut at a word)."""
        stretch = self.stretch(rng, tokens * _CHARS_PER_TOKEN)
        offsets = self._tokenizer.encode(stretch, add_special_tokens=False).offsets
        return stretch[: offsets[min(tokens, len(offsets)) - 1][1]].strip()

    def stretch(self, rng: random.Random, chars: int) -> str:
        """``chars`` characters from the beginning of a word on; at most half of all there is."""
        start = self._text.index(" ", rng.randrange(len(self._text) - 2 * chars)) + 1
        return self._text[start : start + chars]


@cache
def _docstrings() -> str:
    """All of them, in one text."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found: list[str] = []
    for name in _MODULES.split():
        path = folder / f"{name}.py"
        if not path.exists():
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    found.append(text)
    return "\n\n".join(found)
