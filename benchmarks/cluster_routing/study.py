"""Runs what a size asks for, in one or more processes, and skips what is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from benchmarks.cluster_routing.measure import Ground, Setting, Task, run, survey
from benchmarks.cluster_routing.plan import (
    RAYS,
    Cell,
    Size,
    Variant,
    affinity_grid,
    best_variant,
    cells,
    fixed_variants,
    rays_own,
    weight_variants,
)
from benchmarks.cluster_routing.store import Row, Store

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CellRuns:
    """All rows of one cell; by seed, from seed 0."""

    cell: Cell
    ground: Ground
    affinity: Variant
    """The best of the grid."""
    rows: dict[str, list[Row]]
    """By the variant's label. The rest of the grid, Ray's router as it ships, and the other weights have the
    tuning seeds only."""


class Study:
    def __init__(self, size: Size, setting: Setting, store: Store, jobs: int, say: Say) -> None:
        self._size = size
        self._setting = setting
        self._store = store
        self._jobs = jobs
        self._say = say

    def run(self) -> list[CellRuns]:
        """In two steps, since the second depends on the first: the grids on the tuning seeds, then their
        winners on the others. Rows are kept as they come."""
        size, everything = self._size, range(self._size.seeds)
        tuning = range(min(size.tuning_seeds, size.seeds))
        with self._pool() as pool:
            grounds = {cell: self._ground(cell) for cell in cells(size)}
            first: list[Task] = []
            for cell, ground in grounds.items():
                first += self._tasks(cell, ground, fixed_variants(), everything)
                first += self._tasks(cell, ground, affinity_grid(size), tuning)
                first += self._tasks(cell, ground, [*weight_variants(size, cell), Variant(RAYS)], tuning)
            winners = len(grounds) * (2 * size.seeds - len(tuning))
            self._finish(pool, first, len(first) + winners)
            best = {cell: self._best(cell, ground, tuning) for cell, ground in grounds.items()}
            second = [
                task
                for cell, ground in grounds.items()
                for task in self._tasks(cell, ground, [best[cell], rays_own(best[cell])], everything)
            ]
            self._finish(pool, second, len(first) + winners)
        return [self._collect(cell, ground, best[cell]) for cell, ground in grounds.items()]

    def _ground(self, cell: Cell) -> Ground:
        name = f"{cell.preset} {cell.workers}"
        known = self._store.grounds().get(name)
        if known is None:
            found = survey(
                self._setting, cell.preset, cell.workers, self._size.requests_per_worker * cell.workers
            )
            self._store.add_ground(name, asdict(found))
            self._say(
                f"{cell.preset}, {cell.workers} workers: saturated at {found.saturation_per_s:.1f} "
                f"requests/s, {found.device_tokens} tokens of KV per worker, "
                f"working set {found.working_set_tokens}"
            )
            return found
        return Ground(**known)

    def _tasks(
        self, cell: Cell, ground: Ground, variants: Iterable[Variant], seeds: Iterable[int]
    ) -> list[Task]:
        return [Task(self._setting, ground, cell, variant, seed) for variant in variants for seed in seeds]

    def _best(self, cell: Cell, ground: Ground, tuning: range) -> Variant:
        grid = affinity_grid(self._size)
        seconds = {
            variant.label: [
                self._store.rows[task.key]["ttft_mean_s"]
                for task in self._tasks(cell, ground, [variant], tuning)
            ]
            for variant in grid
        }
        return best_variant(seconds, grid)

    def _collect(self, cell: Cell, ground: Ground, best: Variant) -> CellRuns:
        variants = {each.label: each for each in (*fixed_variants(), best, rays_own(best), Variant(RAYS))}
        variants |= {each.label: each for each in affinity_grid(self._size)}
        variants |= {each.label: each for each in weight_variants(self._size, cell)}
        rows = {
            label: [
                self._store.rows[task.key]
                for task in self._tasks(cell, ground, [variant], range(self._size.seeds))
                if task.key in self._store.rows
            ]
            for label, variant in variants.items()
        }
        return CellRuns(cell, ground, best, rows)

    def _finish(self, pool: ProcessPoolExecutor | None, tasks: list[Task], total: int) -> None:
        missing = [task for task in tasks if task.key not in self._store.rows]
        for task, row in self._outcomes(pool, missing):
            self._store.add(task.key, row)
            self._say(
                f"{len(self._store.rows)}/{total} {task.key}: TTFT {row['ttft_mean_s']:.3f} s, "
                f"hits {row['hit_ratio']:.1%}"
            )

    def _outcomes(self, pool: ProcessPoolExecutor | None, tasks: list[Task]) -> Iterator[tuple[Task, Row]]:
        if pool is None:
            for task in tasks:
                yield task, run(task, self._store.raw(task.key))
            return
        running = {pool.submit(run, task, self._store.raw(task.key)): task for task in tasks}
        for done in as_completed(running):
            yield running[done], done.result()

    @contextmanager
    def _pool(self) -> Iterator[ProcessPoolExecutor | None]:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # each emulated engine would tell of its start
        if self._jobs == 1:
            yield None
            return
        with ProcessPoolExecutor(self._jobs) as pool:
            yield pool
