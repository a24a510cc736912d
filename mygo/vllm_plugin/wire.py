"""The messages from the engine process to its worker process, and their framing.

One direction only: after connecting, the engine sends one Hello, then one Batch with
``snapshot=True``, then Batches of changes. The stream is ordered and loses nothing while it lasts,
and a new connection begins with a snapshot, so neither acknowledgements nor requests are needed.
A frame is a 4-byte big-endian length and that many bytes of MessagePack.
"""

from __future__ import annotations

import struct

import msgspec

from mygo.types import ResidencyEvent, WorkerLoad
from mygo.vllm_plugin.tiers.counters import TierCounters

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 256 * 2**20


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """What an engine says of itself, once per connection."""

    epoch: str
    """Names the engine's incarnation; a new one means an empty cache."""
    block_tokens: int
    device_tokens: int
    """Capacity of the device tier in tokens."""
    pid: int
    data_parallel_rank: int


class Batch(msgspec.Struct, frozen=True, tag="batch"):
    """What changed since the last one."""

    load: WorkerLoad
    events: tuple[ResidencyEvent, ...]
    snapshot: bool
    """True if ``events`` is all that the engine holds."""
    counters: TierCounters


Message = Hello | Batch

_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def frame(message: Message) -> bytes:
    """A message with its length in front."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """Raises ValueError (msgspec.DecodeError) if ``body`` is not a message."""
    return _decoder.decode(body)
