"""What the catalog keeps, under OpenAI's names, and how it is read from a row of its tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mygo.types import DocId, DomainTag, Reuse, StoreId, TenantId

Attributes = Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class Store:
    """A vector store: a named set of documents that are searched together."""

    id: StoreId
    tenant: TenantId
    """Its owner: the only one who may change it."""
    name: str
    domain: DomainTag
    """The owner's, or ``public``: then every tenant may search it."""
    metadata: Mapping[str, str]
    created_at: float
    """Seconds since the epoch, as everywhere here."""
    reuse: Reuse | None = None
    """None: as the deployment."""


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file. Equal bytes uploaded twice are two files."""

    id: DocId
    tenant: TenantId
    filename: str
    bytes: int
    sha256: str
    purpose: str
    created_at: float


class StoreFileStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    """Promised, durably; not yet searchable."""
    COMPLETED = "completed"
    """In the journal, and found by searches."""
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Failure:
    code: str
    """``unsupported_file`` (the file is at fault) or ``server_error`` (we are)."""
    message: str


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file attached to a store."""

    store_id: StoreId
    file_id: DocId
    status: StoreFileStatus
    error: Failure | None
    """Set if and only if ``status`` is failed."""
    bytes: int
    """Of the file."""
    chunks: int
    """Passages in the journal; 0 unless completed."""
    position: int
    """Of its journal entry; 0 unless completed."""
    attributes: Attributes
    created_at: float


StatusCounts = Mapping[StoreFileStatus, int]
"""Files by status; every status is present."""


def no_files() -> dict[StoreFileStatus, int]:
    return dict.fromkeys(StoreFileStatus, 0)


@dataclass(frozen=True, slots=True)
class StoreUsage:
    counts: StatusCounts = field(default_factory=no_files)
    bytes: int = 0
    """Of the files that are completed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that were attached to a store together."""

    id: str
    store_id: StoreId
    cancelled: bool
    """True if somebody gave it up; files that were completed by then stay so."""
    counts: StatusCounts
    """Of its files as they are now; those that left the store are cancelled."""
    created_at: float


def store_of(row: sqlite3.Row) -> Store:
    return Store(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        domain=row["domain"],
        metadata=json.loads(row["metadata"]),
        created_at=row["created_at"],
        reuse=Reuse(row["reuse"]) if row["reuse"] else None,
    )


def file_of(row: sqlite3.Row) -> File:
    return File(
        id=row["id"],
        tenant=row["tenant"],
        filename=row["filename"],
        bytes=row["bytes"],
        sha256=row["sha256"],
        purpose=row["purpose"],
        created_at=row["created_at"],
    )


def store_file_of(row: sqlite3.Row) -> StoreFile:
    """``row`` has, beside ``status``, the ``shown_status`` that the catalog derives from it."""
    failed = row["error_message"] is not None
    return StoreFile(
        store_id=row["store_id"],
        file_id=row["file_id"],
        status=StoreFileStatus(row["shown_status"]),
        error=Failure(row["error_code"], row["error_message"]) if failed else None,
        bytes=row["bytes"],
        chunks=row["chunks"],
        position=row["position"],
        attributes=json.loads(row["attributes"]),
        created_at=row["created_at"],
    )
