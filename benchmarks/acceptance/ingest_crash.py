"""SIGKILL of the whole cluster in the middle of an ingest: what was acknowledged is there, once.

Clients upload and attach small files until a part of them is acknowledged; then every process dies at
once. After a restart on the same data directory everything acknowledged so far must be found, and the
ingest goes on where it stopped. ``CRASHES`` times, then to the end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

import openai

from benchmarks import processes
from benchmarks.acceptance.step import Outcome, Say
from benchmarks.cluster import Cluster, running_cluster

FILES = 90
CRASHES = 2
CLIENTS = 4
SETTLE_S = 180.0
WORDS = ("amber", "basalt", "cedar", "delta", "ember", "fjord", "garnet", "harbor", "indigo", "jasper")


@dataclass
class Book:
    """What the server has acknowledged; filled by several clients."""

    uploaded: dict[int, str] = field(default_factory=dict)
    """Number of the file -> its id."""
    attached: set[int] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)

    def open_numbers(self) -> list[int]:
        return [number for number in range(FILES) if number not in self.attached]


def run(folder: Path, say: Say) -> Outcome:
    book, store_id = Book(), ""
    crashes: list[dict[str, int]] = []
    problems: list[str] = []
    for crash in range(1, CRASHES + 1):
        with running_cluster(folder / "cluster") as cluster:
            if not store_id:
                store_id = cluster.client().vector_stores.create(name="crash").id
            problems += _verify(cluster, store_id, book)
            target = crash * FILES // (CRASHES + 1)
            killed = _ingest(cluster, store_id, book, kill_at=target)
            cluster.process.wait()
        crashes.append({"processes": killed, "uploaded": len(book.uploaded), "attached": len(book.attached)})
        say(f"crash {crash}: {killed} processes killed with {len(book.attached)} of {FILES} files attached")
    with running_cluster(folder / "cluster") as cluster:
        problems += _verify(cluster, store_id, book)
        _ingest(cluster, store_id, book, kill_at=None)
        problems += _verify(cluster, store_id, book)
    complete = len(book.attached) == FILES
    if not complete:
        problems.append(f"only {len(book.attached)} of {FILES} files could be attached")
    return Outcome(
        not problems,
        f"{FILES} files, {CRASHES} crashes, {len(problems)} problems"
        + (f": {problems[0]}" if problems else ""),
        {"files": FILES, "crashes": crashes, "problems": problems[:50]},
    )


def phrase(number: int) -> str:
    """Three words that no other file has in this order."""
    digits = (*divmod(number // 10, 10), number % 10)
    return " ".join(WORDS[digit] for digit in digits)


def _name(number: int) -> str:
    return f"note-{number:03d}.txt"


def _ingest(cluster: Cluster, store_id: str, book: Book, *, kill_at: int | None) -> int:
    """Upload and attach what is not yet attached; with ``kill_at`` attached files, kill everything.

    Returns how many processes were killed. Raises RuntimeError if an upload fails without a crash.
    """
    stop = Event()
    killed: list[int] = []

    def work(number: int) -> None:
        if stop.is_set():
            return
        client = cluster.client()
        try:
            if number not in book.uploaded:
                text = f"The password of room {number} is {phrase(number)}. " * 3
                file = client.files.create(file=(_name(number), text.encode()), purpose="assistants")
                with book.lock:
                    book.uploaded[number] = file.id
            client.vector_stores.files.create(vector_store_id=store_id, file_id=book.uploaded[number])
        except openai.APIError as error:
            if not stop.is_set():
                raise RuntimeError(f"{_name(number)} was refused without a crash: {error}") from error
            return
        with book.lock:
            # an answer that arrived is an acknowledgement, even if the server is dying meanwhile
            book.attached.add(number)
            due = kill_at is not None and len(book.attached) >= kill_at and not stop.is_set()
            if due:
                stop.set()
        if due:
            killed.append(processes.kill_tree(cluster.process.pid))

    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(work, book.open_numbers()))
    return sum(killed)


def _verify(cluster: Cluster, store_id: str, book: Book) -> list[str]:
    """One sentence per acknowledged file that is missing, not searchable, or there twice."""
    client = cluster.client()
    deadline_s = time.monotonic() + SETTLE_S
    while (counts := client.vector_stores.retrieve(store_id).file_counts).in_progress:
        if time.monotonic() > deadline_s:
            return [f"{counts.in_progress} files still in progress after {SETTLE_S:g} s"]
        time.sleep(0.5)
    problems: list[str] = []
    uploads = Counter(file.id for file in client.files.list(limit=100))
    members: dict[str, list[Any]] = {}
    for member in client.vector_stores.files.list(store_id, limit=100):
        members.setdefault(member.id, []).append(member)
    for number, file_id in sorted(book.uploaded.items()):
        if uploads[file_id] != 1:
            problems.append(f"{_name(number)}: listed {uploads[file_id]} times among the files")
    for number in sorted(book.attached):
        states = [member.status for member in members.get(book.uploaded[number], [])]
        if states != ["completed"]:
            problems.append(f"{_name(number)}: in the store as {states}")
        problems += _search(client, store_id, number)
    return problems


def _search(client: openai.OpenAI, store_id: str, number: int) -> Iterator[str]:
    query = f"The password of room {number} is {phrase(number)}."
    found = client.vector_stores.search(store_id, query=query, max_num_results=50)
    times = sum(hit.filename == _name(number) for hit in found.data)
    if times != 1:
        yield f"{_name(number)}: found {times} times by a search"
