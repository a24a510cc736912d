"""All that a shard holds of one store, some at a time: what snapshots are written from and restored to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from mygo.retrieval.index import Structure, Vectors
from mygo.types import Passage, StoreId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreContents:
    store_id: StoreId
    count: int
    """Of passages."""
    passages: Iterable[Passage]
    """To be taken once."""
    vectors: Iterable[Vectors]
    """[n, dimensions] each, in the order of the passages; to be taken once."""
    structure: Structure | None = None
    """Of their index, which saves the time to build it again."""


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """All items in their order, ``size`` at a time, the last time fewer."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
