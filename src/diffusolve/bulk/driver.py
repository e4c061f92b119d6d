"""The driver: hands out blocks, takes note of shards, replaces workers. Its work for a block does not grow."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Any

from tqdm.auto import tqdm

from diffusolve.bulk.job import Folder, Job
from diffusolve.bulk.worker import AHEAD, Turn
from diffusolve.workers import Deaths, Died, Hands

__all__ = ["Drive"]


class Drive:
    """A job on its way.

    Args:
        folder: the job's.
        job: what is to be made.
        complete: the blocks that are done, with their numbers of failed rows; others are put in.
        progress: show a progress bar.
    """

    def __init__(self, folder: Folder, job: Job, complete: dict[int, int], progress: bool) -> None:
        self.folder = folder
        self.job = job
        self.complete = complete
        self.progress = progress
        self.rows_done = sum(len(job.rows_in(block)) for block in complete)
        self.deaths = 0
        self.computed = 0
        self.evaluations = 0
        self.widths: dict[tuple[int, ...], tuple[int, str]] = {}
        """As :attr:`Turn.widths <diffusolve.bulk.worker.Turn>` of the worker that called the network on most rows."""
        self._pending = deque(block for block in range(job.blocks) if block not in complete)
        self._given: dict[int, list[int]] = {}
        self._held: dict[int, int] = {}

    @property
    def occupancy(self) -> float:
        """The share of evaluations in what the network computed."""
        return self.evaluations / self.computed if self.computed else 0.0

    def run(self, hands: Hands, workers: int) -> None:
        """Do all that is not done, with so many workers.

        Raises:
            RuntimeError: workers die again and again.
            Exception: whatever a worker cannot get over.
        """
        begun = time.monotonic()
        in_a_row = Deaths(workers, "calls generate()")
        bar = tqdm(total=self.job.rows, initial=self.rows_done, disable=not self.progress, unit="row", desc="rows")
        with bar, contextlib.closing(hands):
            for _ in range(min(workers, len(self._pending))):
                self._start(hands)
            while len(self.complete) < self.job.blocks:
                for worker, said in hands.heard(1.0):
                    if isinstance(said, Died):
                        self._replace(hands, worker, said, in_a_row)
                    else:
                        self._take(hands, worker, said, in_a_row)
                if self.progress:
                    self._show(bar, time.monotonic() - begun)

    def _show(self, bar: Any, seconds: float) -> None:
        rate = f"{self.evaluations / max(seconds, 1e-9):,.0f}"
        bar.set_postfix({"evaluations/s": rate, "occupancy": f"{self.occupancy:.0%}"}, refresh=False)
        bar.update(self.rows_done + sum(self._held.values()) - bar.n)

    def _start(self, hands: Hands) -> None:
        worker = hands.start()
        self._given[worker] = []
        self._give(hands, worker, AHEAD)

    def _give(self, hands: Hands, worker: int, wants: int) -> None:
        """Let a worker go on, with as many blocks as it wants; one for whom there is nothing is left alone."""
        blocks = [self._pending.popleft() for _ in range(min(wants, len(self._pending)))]
        self._given[worker] += blocks
        if self._given[worker]:
            hands.give(worker, blocks, not self._pending)

    def _take(self, hands: Hands, worker: int, turn: Turn, in_a_row: Deaths) -> None:
        for done in turn.done:
            self.folder.note(done.block, done.made, done.failed)
            self._given[worker].remove(done.block)
            self.complete[done.block] = done.failed
            self.rows_done += done.rows
            in_a_row.done()
        self._held[worker] = turn.held
        self.computed += turn.computed
        self.evaluations += turn.evaluations
        for shape, width in turn.widths.items():
            self.widths[shape] = max(self.widths.get(shape, width), width)
        self._give(hands, worker, turn.wants)

    def _replace(self, hands: Hands, worker: int, died: Died, in_a_row: Deaths) -> None:
        """Give the blocks of a dead worker back, and start another one."""
        lost = self._given.pop(worker)
        self._pending.extendleft(reversed(lost))
        self._held.pop(worker, None)
        self.deaths += 1
        blocks = ", ".join(map(str, lost))
        in_a_row.count(f"without a shard done between them; the last, {died.how}, was at blocks {blocks}")
        self._start(hands)
