"""Turns the name of a model into a directory that vLLM or sentence-transformers can load.

A name is ``demo:...`` (weights that a Python package carries), a local path, or a Hugging Face id.
The same name gives the same directory in every process; converted checkpoints live in the cache
directory, are written once and can be deleted at any time.

Why packages: a newcomer gets a working demo from the package index alone, with nothing fetched from
a model hub. The room imports torch and transformers only when it converts.
"""

from mygo.models.resolve import resolve, tokenizer_path
from mygo.models.store import verify

__all__ = ["resolve", "tokenizer_path", "verify"]
