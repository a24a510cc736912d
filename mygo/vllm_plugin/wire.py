"""The messages between the engine process and its worker process, and their framing.

After connecting, the engine sends one Hello, then one Batch with ``snapshot=True``, then Batches of
changes. The stream is ordered and loses nothing while it lasts, and a new connection begins with a
snapshot, so reports need neither acknowledgements nor requests. The worker sends commands, each of which the
engine answers once, between two of its steps; those of a lost connection are not answered.
A frame is a 4-byte big-endian length and that many bytes of MessagePack.
"""

from __future__ import annotations

import struct

import msgspec

from mygo.blend.verdicts import Divergence
from mygo.types import ResidencyEvent, WorkerLoad
from mygo.vllm_plugin.chunks.quality_view import QualityView
from mygo.vllm_plugin.tiers.counters import TierCounters
from mygo.vllm_plugin.tiers.view import CacheView

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


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A command was carried out."""

    number: int
    view: CacheView | None = None
    """To a Look."""
    quality: QualityView | None = None
    """To an Observe or Assess, if the engine has a quality guard."""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Describe the most valuable nodes of the knowledge tree."""

    number: int
    top: int


class Purge(msgspec.Struct, frozen=True, tag="purge"):
    """Let go of all KV that was computed in sight of the passages with these tags."""

    number: int
    tags: tuple[str, ...]


class Observe(msgspec.Struct, frozen=True, tag="observe"):
    """What a comparison that the quality guard asked for has found."""

    number: int
    ticket: int
    divergence: Divergence


class Assess(msgspec.Struct, frozen=True, tag="assess"):
    """Tell what the quality guard knows; if ``reset``, forget it first."""

    number: int
    reset: bool = False


Message = Hello | Batch | Done
"""From the engine."""
Command = Look | Purge | Observe | Assess
"""To the engine. Numbers are the sender's; the answer repeats them."""

_messages: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def frame(message: Message | Command) -> bytes:
    """A message with its length in front."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """Raises ValueError (msgspec.DecodeError) if ``body`` is not a message of an engine."""
    return _messages.decode(body)


def decode_command(body: bytes) -> Command:
    """Raises ValueError (msgspec.DecodeError) if ``body`` is not a command."""
    return _commands.decode(body)
