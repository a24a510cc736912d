"""PURE. When to prefill for documents that retrieval has not confirmed yet, and what becomes of it.

A search in stages shows what it has found so far. Prefilling for that early hides retrieval behind prefill
if the search ends with the same documents, and wastes prefill if not. ``machine.py`` follows one request,
``foresight.py`` learns what provisional results are worth, ``gate.py`` compares predicted seconds. After
RAGCache's dynamic speculative pipelining (arXiv 2404.12457, section 5.3), with a gate of our own.
"""

from mygo.speculation.foresight import Foresight, Outlook
from mygo.speculation.gate import Gate, Quote
from mygo.speculation.machine import Move, Speculation
from mygo.speculation.overlap import Overlap, Speculated

__all__ = ["Foresight", "Gate", "Move", "Outlook", "Overlap", "Quote", "Speculated", "Speculation"]
