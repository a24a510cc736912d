"""Documents in, an append-only journal out.

Purpose: keep what users upload, turn it into passages, and tell everybody else about it in one order.

Contract: ``Library`` opens a data directory. Its ``catalog`` holds files and vector stores per
tenant; ``catalog.attach`` promises durably that a file will be searchable; ``process_next`` parses,
chunks and appends it to the ``journal``, which followers read from a position on. What a call
returned is there after ``kill -9``, exactly once. A document that changed is a Delete followed by an
Upsert; ``journal.references`` says whether a deleted passage's text is still live in its domain.

Why one SQLite file: "this file is completed" and "its passages are in the journal" must be one
transaction, or a crash between the two loses or doubles a document. Why the journal keeps text and
not a path: retrieval shards are pure functions of it and can be rebuilt from it alone. Uploaded
bytes are files on disk, named by their hash, because they are large and only read once. Rejected:
deleting rows of past documents from the journal (a follower that was away would miss the deletion).
Why parsing has a process of its own (``ChildChunks``): a hostile file can make a parser loop or crash.

Reading order: ``ingest``, ``journal``, ``catalog``, ``matching``, ``batches``; ``database`` and ``blobs``
below them; ``parse`` (with ``html``) and ``chunk`` beside them, ``child`` around those.
"""

from mygo.corpus.batches import Batches
from mygo.corpus.catalog import Catalog
from mygo.corpus.child import ChildChunks
from mygo.corpus.chunk import Chunker, load_file_chunks
from mygo.corpus.ingest import Library
from mygo.corpus.journal import Delete, Document, Entry, Journal, Upsert, passage_hash
from mygo.corpus.pages import PageRequest
from mygo.corpus.parse import SUPPORTED_EXTENSIONS, is_markdown, parse
from mygo.corpus.records import (
    Attributes,
    Batch,
    Failure,
    File,
    Store,
    StoreFile,
    StoreFileStatus,
    StoreUsage,
)

__all__ = [
    "SUPPORTED_EXTENSIONS",
    "Attributes",
    "Batch",
    "Batches",
    "Catalog",
    "ChildChunks",
    "Chunker",
    "Delete",
    "Document",
    "Entry",
    "Failure",
    "File",
    "Journal",
    "Library",
    "PageRequest",
    "Store",
    "StoreFile",
    "StoreFileStatus",
    "StoreUsage",
    "Upsert",
    "is_markdown",
    "load_file_chunks",
    "parse",
    "passage_hash",
]
