"""Chunks as files of one folder: a header page, the KV, and what it is. Blocking calls, for I/O threads.

The header and its checksum are those of the disk tier (``disk.format``); a chunk's facts lie behind its KV,
under the same checksum. As there, a file appears whole or not at all, and one that fails is deleted. Unlike
there, chunks differ in size, and are read far less often than blocks: buffered I/O will do.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mygo.blend.variants import Birth, BirthKind, DocumentTag, Ranking, Variant, VariantKey
from mygo.types import DomainTag
from mygo.vllm_plugin.disk.format import HEADER_BYTES, KEY_BYTES, ChunkKey, is_intact, seal

_LENGTH = struct.Struct("<I")
"""Of the facts, at the file's end."""


@dataclass(frozen=True, slots=True)
class ChunkFiles:
    """One per rank: each has its own heads of every chunk."""

    folder: Path
    namespace: bytes
    """What the chunks are comparable with, NAMESPACE_BYTES."""
    rank: int

    def write(self, variant: Variant, kv: torch.Tensor) -> None:
        """Raises OSError; then nothing is left behind. ``kv``: on the CPU, of any shape and type."""
        facts = json.dumps(_facts(variant, kv)).encode()
        content = kv.contiguous().view(torch.uint8).numpy().tobytes()
        payload = memoryview(content + facts + _LENGTH.pack(len(facts)))
        path = self._path(variant.key)
        temporary = path.with_suffix(".part")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(seal(self.namespace, _disk_key(variant.key), payload))
                file.write(payload)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def read(self, key: VariantKey) -> torch.Tensor | None:
        """None if there is no such chunk, or none that is intact. Raises OSError."""
        try:
            content = bytearray(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        header, payload = bytes(content[:HEADER_BYTES]), memoryview(content)[HEADER_BYTES:]
        whole = len(header) == HEADER_BYTES
        if not whole or not is_intact(header, self.namespace, _disk_key(key), payload):
            self.erase(key)
            return None
        facts, kv_bytes = _split(payload)
        kv = torch.frombuffer(content, dtype=torch.uint8, offset=HEADER_BYTES, count=kv_bytes)
        return kv.view(getattr(torch, facts["type"])).reshape(facts["shape"])

    def erase(self, key: VariantKey) -> None:
        self._path(key).unlink(missing_ok=True)

    def variants(self) -> list[Variant]:
        """What is there, oldest first, by what the files say of themselves: reading verifies it. Deletes what
        an earlier process left unfinished."""
        for unfinished in self.folder.glob(f"*.{self.rank}.part"):
            unfinished.unlink()
        paths = sorted(self.folder.glob(f"*.{self.rank}.kv"), key=lambda path: path.stat().st_mtime)
        return list(self._described(paths))

    def _described(self, paths: list[Path]) -> Iterator[Variant]:
        for path in paths:
            try:
                with path.open("rb") as file:
                    file.seek(-_LENGTH.size, os.SEEK_END)
                    (length,) = _LENGTH.unpack(file.read())
                    file.seek(-_LENGTH.size - length, os.SEEK_END)
                    variant = _variant(json.loads(file.read(length)))
            except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
                path.unlink(missing_ok=True)
                continue
            if path == self._path(variant.key):
                yield variant

    def _path(self, key: VariantKey) -> Path:
        return self.folder / f"{key}.{self.rank}.kv"


def _facts(variant: Variant, kv: torch.Tensor) -> dict[str, Any]:
    return {
        "key": variant.key,
        "document": variant.document,
        "tokens": variant.tokens,
        "kv_bytes": variant.kv_bytes,
        "domain": variant.domain,
        "birth": variant.birth.kind.value,
        "before": variant.birth.before,
        "blend": variant.birth.blend,
        "seen": variant.birth.seen,
        "ranking": asdict(variant.ranking) if variant.ranking is not None else None,
        "shape": list(kv.shape),
        "type": str(kv.dtype).removeprefix("torch."),
    }


def _variant(facts: dict[str, Any]) -> Variant:
    before, seen = (tuple(map(DocumentTag, facts[name])) for name in ("before", "seen"))
    ranking = facts.get("ranking")  # files of before there were rankings have none
    return Variant(
        VariantKey(facts["key"]),
        DocumentTag(facts["document"]),
        int(facts["tokens"]),
        int(facts["kv_bytes"]),
        DomainTag(facts["domain"]),
        Birth(BirthKind(facts["birth"]), before, blend=str(facts["blend"]), seen=seen),
        None if ranking is None else _ranking(ranking),
    )


def _ranking(facts: dict[str, Any]) -> Ranking:
    order = tuple(facts["order"])
    if not all(type(index) is int for index in order):  # 1.0 and true pass for 1, but name no token
        raise TypeError(f"a ranking of {order}")
    return Ranking(order, tuple(DocumentTag(str(each)) for each in facts["seen"]))


def _split(payload: memoryview) -> tuple[dict[str, Any], int]:
    """The facts at the end of an intact payload, and the bytes of KV before them."""
    end = len(payload) - _LENGTH.size
    (length,) = _LENGTH.unpack(payload[end:])
    facts: dict[str, Any] = json.loads(bytes(payload[end - length : end]))
    return facts, end - length


def _disk_key(key: VariantKey) -> ChunkKey:
    return ChunkKey(bytes.fromhex(key).ljust(KEY_BYTES, b"\0"))
