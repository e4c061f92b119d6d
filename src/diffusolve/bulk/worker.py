"""A worker: its model, one continuous batch, and the blocks of rows that it has been given."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from diffusolve.arrays import to_numpy
from diffusolve.bulk.engine import Engine, Outcome
from diffusolve.bulk.job import Folder, Job
from diffusolve.bulk.models import Model, ModelLike, load_model
from diffusolve.bulk.recipes import Recipes
from diffusolve.bulk.rows import Row
from diffusolve.bulk.shards import Made, Record, format_called, record_of
from diffusolve.bulk.sources import source_of
from diffusolve.files import write_atomically

__all__ = ["AHEAD", "Done", "Order", "Turn", "Worker"]

AHEAD = 2
"""Blocks that a worker has at once whose rows have not all joined: the one at hand, and one that it goes on with."""


class Order(NamedTuple):
    """A description of the work. It is sent to other processes and machines."""

    out: Path
    model: ModelLike
    batch_size: int | None
    device: str
    """A device of PyTorch, as jobs have it or with a number, ``cuda:1``."""
    seconds: float = 0.5
    """The length of a turn, after which a worker says how far it is."""

    def on(self, device: str) -> Order:
        """The same on another device."""
        return self._replace(device=device)

    def begin(self) -> Worker:
        """A worker of it."""
        return Worker(self)


class Done(NamedTuple):
    """A block whose shard is complete."""

    block: int
    rows: int
    failed: int
    made: Made


@dataclass
class Turn:
    """The report of a worker after a while."""

    done: list[Done] = field(default_factory=list)
    held: int = 0
    """Rows that are finished, in blocks that are not."""
    wants: int = 0
    """The number of blocks that it could take."""
    computed: int = 0
    """Rows that the network was called on in this turn."""
    evaluations: int = 0
    """The number of them that were no padding."""
    widths: dict[tuple[int, ...], tuple[int, str]] = field(default_factory=dict)
    """Shape of a sample -> how many the network is asked about at once so far, and why not about more."""


class OpenBlock:
    """A block that is being worked on: what is made of it so far."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.expected: int | None = None
        """The number of rows to be made of it; None as long as not all have joined."""
        self.records: dict[int, Record] = {}
        self.failed: dict[int, tuple[Row, str]] = {}

    def __len__(self) -> int:
        return len(self.records) + len(self.failed)


class Worker:
    """Makes shards of blocks.

    Args:
        order: what to work on.
        model: that of the order, if it is loaded already.

    Raises:
        ValueError: the model is another one than the job's.
    """

    def __init__(self, order: Order, model: Model | None = None) -> None:
        self.folder = Folder(order.out)
        job = self.folder.job()
        assert job is not None
        self.job: Job = job
        self.model = model or load_model(order.model, order.device, job.call_size)
        if self.model.identity != job.identity:
            raise ValueError(
                f"the model {job.model} of the job in {order.out} has the identity {job.identity!r}, and {job.model} "
                f"here has {self.model.identity!r}: its weights are others."
            )
        self.source = source_of(Path(job.input))
        self.places = self.folder.places()
        self.seconds = order.seconds
        self.format = format_called(job.format)
        self.engine = Engine(self.model, Recipes(self.model, dict(job.plans)), order.batch_size)
        self._given: deque[int] = deque()
        self._open: dict[int, OpenBlock] = {}
        self._joining: Iterator[tuple[OpenBlock, int, Row]] | None = None

    def turn(self, blocks: list[int], drain: bool) -> Turn:
        """Work for a while, on what is at hand and `blocks`; until there are too few rows, unless `drain`.

        Raises:
            OSError: a shard cannot be written.
        """
        self._given.extend(blocks)
        engine, turn = self.engine, Turn(computed=-self.engine.computed, evaluations=-self.engine.evaluations)
        ends = time.monotonic() + self.seconds
        with threads(self.job.threads):
            while time.monotonic() < ends:
                while not engine.is_full and (following := self._next_row()) is not None:
                    opened, number, row = following
                    at_once = engine.join(row, (opened.block, number))
                    if at_once is not None:
                        self._take(at_once)
                self._finish(turn)
                ended = self._joining is None and not self._given
                if ended and (not drain or not len(engine)):
                    break
                for outcome in engine.step(ended):
                    self._take(outcome)
        self._finish(turn)
        turn.held = sum(map(len, self._open.values()))
        turn.wants = AHEAD - len(self._given) - (self._joining is not None)
        turn.computed += engine.computed
        turn.evaluations += engine.evaluations
        turn.widths = {shape: (width.size, width.why) for shape, width in engine.widths.items()}
        return turn

    def _next_row(self) -> tuple[OpenBlock, int, Row] | None:
        """The next row of the blocks at hand, and its number in its block."""
        while True:
            if self._joining is None:
                if not self._given:
                    return None
                self._joining = self._rows(self._given.popleft())
            following = next(self._joining, None)
            if following is not None:
                return following
            self._joining = None

    def _rows(self, block: int) -> Iterator[tuple[OpenBlock, int, Row]]:
        opened = self._open[block] = OpenBlock(block)
        numbers = self.job.rows_in(block)
        bad, good = self.folder.bad(numbers), 0
        for number, found in zip(numbers, self.source.block(int(self.places[block]), len(numbers)), strict=True):
            if number not in bad:
                if isinstance(found.row, str):
                    raise ValueError(f"{self.job.input} was changed while the job runs: {found.row}")
                good += 1
                yield opened, number - numbers.start, found.row
        opened.expected = good

    def _take(self, outcome: Outcome) -> None:
        """Put the outcome of a row to its block."""
        block, number = outcome.tag
        opened, reason = self._open[block], outcome.reason
        if outcome.sample is not None:
            try:
                pixels = self.model.pixels(outcome.sample)
            except Exception as error:
                reason = f"its picture could not be decoded, {type(error).__name__}: {error}"
            else:
                sample = to_numpy(outcome.sample)
                opened.records[number] = record_of(outcome.row, sample, pixels, outcome.evaluations)
                return
        assert reason is not None
        opened.failed[number] = outcome.row, reason

    def _finish(self, turn: Turn) -> None:
        """Write the shards of blocks all of whose rows are over."""
        for opened in [each for each in self._open.values() if each.expected == len(each)]:
            block = opened.block
            failures = self.folder.failures_path(block)
            if opened.failed:  # there before the shard is: who sees that does not look for them again
                write_atomically(failures, b"".join(_line(*opened.failed[number]) for number in sorted(opened.failed)))
            else:
                failures.unlink(missing_ok=True)
            records = [opened.records[number] for number in sorted(opened.records)]
            written = self.format.write(self.format.path(self.folder.path, block), records)
            del self._open[block]
            turn.done.append(Done(block, len(self.job.rows_in(block)), len(opened.failed), written))


def _line(row: Row, reason: str) -> bytes:
    return json.dumps({**row.fields(), "reason": reason}).encode() + b"\n"


class threads:
    """PyTorch works with `count` threads in the ``with`` block: of some kernels the bits depend on it."""

    def __init__(self, count: int) -> None:
        import torch

        self._torch: Any = torch
        self._count = count

    def __enter__(self) -> None:
        self._before = self._torch.get_num_threads()
        self._torch.set_num_threads(self._count)

    def __exit__(self, *error: object) -> None:
        self._torch.set_num_threads(self._before)
