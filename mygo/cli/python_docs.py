"""The demo's corpus: documentation that every Python carries, written out as text files.

The language reference comes from ``pydoc_data.topics``, the library from docstrings. The same Python
gives the same bytes, so ingesting it again changes nothing.
"""

from __future__ import annotations

import importlib
import inspect
import pydoc_data.topics
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Well-known modules whose docstrings explain themselves; about a third of a megabyte.
MODULES = (
    "argparse", "bisect", "calendar", "collections", "concurrent.futures", "contextlib", "copy", "csv",
    "dataclasses", "datetime", "difflib", "fractions", "functools", "glob", "graphlib", "gzip", "hashlib",
    "heapq", "itertools", "json", "logging", "math", "os.path", "pathlib", "pickle", "pprint", "queue",
    "random", "re", "secrets", "shutil", "sqlite3", "statistics", "string", "struct", "subprocess",
    "tempfile", "textwrap", "threading", "time", "timeit", "traceback", "urllib.parse", "uuid", "weakref",
    "zipfile",
)  # fmt: skip
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class _Default:
    """Stands for a default value whose text depends on the process (an open file, an object)."""

    def __repr__(self) -> str:
        return "..."


def write_python_docs(directory: Path) -> list[Path]:
    """Write ``python/topics/*.txt`` and ``python/library/*.md`` below ``directory``; returns the files."""
    written = []
    for name, text in _documents():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _documents() -> Iterator[tuple[str, str]]:
    for topic, text in sorted(pydoc_data.topics.topics.items()):
        yield f"python/topics/{topic}.txt", text
    for name in MODULES:
        yield f"python/library/{name}.md", _module_text(name, importlib.import_module(name))


def _module_text(name: str, module: ModuleType) -> str:
    parts = [f"# Module `{name}`", inspect.getdoc(module) or ""]
    for public in getattr(module, "__all__", None) or _own_names(module):
        member = getattr(module, public)
        if public.endswith("hook"):
            continue  # programs replace these, pytest among them
        if inspect.isclass(member):
            parts += _class_text(f"{name}.{public}", member)
        elif callable(member):
            parts += _callable_text("##", f"{name}.{public}", member)
    return "\n\n".join(part for part in parts if part) + "\n"


def _own_names(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in sorted(vars(module).items())
        if not name.startswith("_")
        and callable(value)
        # functions written in C say the name of their C module
        and getattr(value, "__module__", None) in (module.__name__, f"_{module.__name__}")
    ]


def _class_text(name: str, kind: type) -> list[str]:
    # getdoc would repeat the documentation of a base class that is not about this one
    doc = inspect.cleandoc(kind.__doc__ or "")
    methods = [
        part
        for method, value in sorted(vars(kind).items())
        if not method.startswith("_")
        and callable(value)
        and getattr(value, "__doc__", None)
        # libraries hang methods of their own on classes such as logging.Logger
        and getattr(value, "__module__", None) in (None, kind.__module__)
        for part in _callable_text("###", f"{name}.{method}", value)
    ]
    return [f"## class `{name}`", doc, *methods] if doc or methods else []


def _callable_text(heading: str, name: str, function: Any) -> list[str]:
    doc = inspect.getdoc(function)
    return [f"{heading} `{name}{_signature(function)}`", _ADDRESS.sub("", doc)] if doc else []


def _signature(function: Any) -> str:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some built-ins have none
        return "(...)"
    shown = [_shown(each) for each in signature.parameters.values() if each.name != "self"]
    return _ADDRESS.sub("", str(inspect.Signature(shown)))


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    bare = parameter.replace(annotation=inspect.Parameter.empty)
    if bare.default is inspect.Parameter.empty or "<" not in repr(bare.default):
        return bare
    return bare.replace(default=_Default())
