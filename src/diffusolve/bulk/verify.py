"""Rows made again, each alone: whether they are what they were in company."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from diffusolve.arrays import to_numpy
from diffusolve.bulk.engine import Engine, Outcome
from diffusolve.bulk.job import Folder, Job
from diffusolve.bulk.models import Model
from diffusolve.bulk.recipes import Recipes
from diffusolve.bulk.rows import Row
from diffusolve.bulk.shards import format_called
from diffusolve.bulk.sources import source_of
from diffusolve.bulk.worker import threads

__all__ = ["Verified", "verify"]


class Verified(NamedTuple):
    """Rows that were made again.

    Attributes:
        compared: how many.
        differing: the ids of those that came out otherwise, in a bit at least.
    """

    compared: int
    differing: tuple[str, ...]


def verify(folder: Folder, job: Job, model: Model, count: int) -> Verified:
    """Make `count` rows again, each alone, and compare; the same rows for the same job.

    Rows that failed are passed over.
    """
    chosen = sorted(random.Random(job.digest).sample(range(job.rows), min(count, job.rows)))
    form, source, places = format_called(job.format), source_of(Path(job.input)), folder.places()
    engine = Engine(model, Recipes(model, dict(job.plans)), 1)
    compared, differing = 0, []
    for block in sorted({number // job.shard_size for number in chosen}):
        numbers = job.rows_in(block)
        records = {record.fields["id"]: record for record in form.read(form.path(folder.path, block))}
        rows = zip(numbers, source.block(int(places[block]), len(numbers)), strict=True)
        for number, found in rows:
            if number not in chosen or not isinstance(found.row, Row) or found.row.id not in records:
                continue
            with threads(job.threads):
                sample = _alone(engine, found.row).sample
            compared += 1
            record = records[found.row.id]
            if sample is None or to_numpy(sample).tobytes() != record.sample.tobytes():
                differing.append(found.row.id)
    return Verified(compared, tuple(differing))


def _alone(engine: Engine, row: Row) -> Outcome:
    over: Iterable[Outcome | None] = [engine.join(row, (0, 0))]
    while len(engine):
        over = engine.step(drain=True)
    (outcome,) = over
    assert outcome is not None
    return outcome
