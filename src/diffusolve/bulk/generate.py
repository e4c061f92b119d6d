"""Rows in, samples out: the beginning of a job, and going on with it."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusolve import __version__
from diffusolve.bulk.driver import Drive
from diffusolve.bulk.ids import Hashes, hash_of
from diffusolve.bulk.job import Folder, Job
from diffusolve.bulk.models import Model, ModelLike, load_model, name_of
from diffusolve.bulk.recipes import Recipes
from diffusolve.bulk.rows import Row
from diffusolve.bulk.shards import Record, check_pictures, format_called
from diffusolve.bulk.sources import FoundRow, Source, source_of
from diffusolve.bulk.verify import verify as verify_rows
from diffusolve.bulk.worker import Order, Worker
from diffusolve.errors import shown
from diffusolve.files import replacing
from diffusolve.workers import OneHand, workers_for

__all__ = ["Summary", "generate", "read"]

SHORTEST, TURNS = 0.5, 200
"""The seconds of a worker's turn, and the most turns a second of many workers: what the driver has to listen to."""

NAMED = 5
"""Bad rows that an error names; it does not look for more."""


@dataclass(frozen=True)
class Summary:
    """The outcome of a job.

    Attributes:
        rows: in the input.
        made: samples that are in the shards, those of earlier calls included.
        failed: rows that could not be made; ``failed.jsonl`` says why.
        bad: rows that were passed over by `skip_bad`; they are in ``failed.jsonl`` too.
        made_before: rows that earlier calls had done.
        damaged: what was wrong with shards that were made again.
        deaths: workers that were killed or crashed and were replaced.
        evaluations: of the network, for rows, in this call.
        occupancy: the share of evaluations in what the network computed; the rest was padding.
        call_size: the number of rows in a call of the network that bits are those of.
        calls: shape of a sample -> the number of rows that the network was asked about at once in the end, which makes
            no difference to bits, and why about no more, for the worker that asked about most.
        verified: rows that were made again, each alone, and compared.
        differing: the ids of those among them that came out otherwise.
        seconds: that this call took, checking included.
    """

    rows: int
    made: int
    failed: int
    bad: int
    made_before: int
    damaged: tuple[str, ...]
    deaths: int
    evaluations: int
    occupancy: float
    call_size: int
    calls: Mapping[tuple[int, ...], tuple[int, str]]
    verified: int
    differing: tuple[str, ...]
    seconds: float

    @property
    def is_complete(self) -> bool:
        """True if every row was made."""
        return self.made == self.rows


def generate(
    rows: str | Path | Iterable[Mapping[str, Any]],
    model: ModelLike,
    out: str | Path,
    *,
    workers: int = 1,
    format: str = "parquet",
    shard_size: int = 1000,
    batch_size: int | None = None,
    call_size: int | None = None,
    device: str = "cpu",
    threads: int = 1,
    ray: bool = False,
    ray_address: str | None = None,
    skip_bad: bool = False,
    verify: int = 0,
    progress: bool = False,
) -> Summary:
    """Make the sample of every row and write them to shards in `out`; or go on where an earlier call was stopped.

    A row's bits depend on the row, the model, `call_size`, `device` (its kind) and `threads`, which a job keeps; not on
    anything else here, and not on interruptions.

    Args:
        rows: a file of JSON lines, CSV or Parquet; or the rows themselves, mappings with the fields of
            :data:`~diffusolve.bulk.FIELDS`, which are then written to a file in `out`.
        model: a name that ``diffusolve sample --model`` takes, or a function that makes a
            :class:`~diffusolve.bulk.Model`.
        out: the folder; made if it is not there.
        workers: how many; one works in this process, several in processes of their own.
        format: ``"parquet"`` or ``"webdataset"``.
        shard_size: rows of the input in each shard. A worker holds the samples of two or three in memory.
        batch_size: the most rows that a worker has under way, of which it asks the network about `call_size` at once.
            When missing, each worker finds out: it asks about twice as many at once as long as that is quicker and was
            seen to be the same bits, and has as many under way as keep such calls full.
        call_size: the number of rows in a call of the network that bits are those of. When missing, the model's own; if
            the very first call of a job is out of memory, half of it, and so on.
        device: of PyTorch, for models known by name: ``"cpu"`` or ``"cuda"``.
        threads: those of PyTorch in each worker.
        ray: workers are actors of Ray: on the cluster that it is connected to, or one started on this machine.
        ray_address: of the cluster, for example ``"10.0.0.1:6379"``; implies `ray`. All its nodes see `rows` and `out`
            under these paths.
        skip_bad: pass over rows that cannot be made, in place of an error before anything runs.
        verify: make so many rows again when all is done, each alone, and compare.
        progress: show a progress bar.

    Raises:
        ValueError: rows that cannot be made, by their lines; a folder that holds something else.
        OSError: the disk is full, or a file cannot be read or written. Call again when that is over.
        MemoryError: a call of the network on `call_size` rows is out of memory, and shards were made by such calls.
        ImportError: a package is missing.
        ConnectionError: there is no Ray cluster at the address.
        RuntimeError: workers end again and again, or the network fails on everything.
    """
    begun = time.monotonic()
    limits = {"workers": workers, "shard_size": shard_size, "batch_size": batch_size, "call_size": call_size}
    if isinstance(verify, bool) or not isinstance(verify, int) or verify < 0:
        raise ValueError(f"verify is {shown(verify)}: expected a whole number of rows.")
    for name, limit in {**limits, "threads": threads}.items():
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"{name} is {shown(limit)}: expected a whole number, at least 1.")
    format_called(format).check()
    source = source_of(Path(rows).absolute()) if isinstance(rows, str | Path) else None
    loaded = load_model(model, device)
    if loaded.decode is not None:
        check_pictures()
    folder = Folder(Path(out).absolute())
    folder.make()
    with folder.locked():
        folder.clean()
        job = folder.job()
        loaded = replace(loaded, call_size=call_size or (loaded.call_size if job is None else job.call_size))
        wanted = {
            "format": format,
            "shard_size": shard_size,
            "model": name_of(model),
            "identity": loaded.identity,
            "device": device.partition(":")[0],
            "threads": threads,
            "call_size": loaded.call_size,
            "version": __version__,
        }
        if job is None:
            source = source or folder.spool(rows)  # type: ignore[arg-type]
            job = _begun(folder, source, loaded, wanted, skip_bad)
        else:
            job = _gone_on_with(folder, job, source, rows, wanted)
        complete, damaged = folder.complete(job)
        order = Order(folder.path, model, batch_size, device, max(SHORTEST, workers / TURNS))
        drive = Drive(folder, job, complete, progress)
        before = drive.rows_done
        while len(complete) < job.blocks:
            try:
                alone = workers == 1 and not ray and ray_address is None
                hands = (
                    OneHand(Worker(order, loaded)) if alone else workers_for(order, workers, threads, ray, ray_address)
                )
                drive.run(hands, workers)
            except MemoryError as error:
                job = _with_half_the_calls(folder, job, complete, call_size, error)
                loaded = replace(loaded, call_size=job.call_size)
                drive = Drive(folder, job, complete, progress)
        if drive.widths:
            folder.put_calls(drive.widths)
        failed = sum(complete.values())
        folder.join_failures(sorted(block for block, count in complete.items() if count))
        verified = verify_rows(folder, job, loaded, verify)
    return Summary(
        rows=job.rows,
        made=job.rows - failed - job.bad,
        failed=failed,
        bad=job.bad,
        made_before=before,
        damaged=tuple(_told(folder, job, *each) for each in damaged),
        deaths=drive.deaths,
        evaluations=drive.evaluations,
        occupancy=drive.occupancy,
        call_size=job.call_size,
        calls=drive.widths,
        verified=verified.compared,
        differing=verified.differing,
        seconds=time.monotonic() - begun,
    )


def _with_half_the_calls(
    folder: Folder, job: Job, complete: dict[int, int], asked: int | None, error: MemoryError
) -> Job:
    """The job with half as many rows in a call of the network, if it has no shards yet and no `asked` call size.

    Raises:
        MemoryError: that cannot be.
    """
    smaller = f"{folder.path} holds nothing else: call again with a smaller call_size"
    if complete:
        smaller = f"{len(complete)} shards were made by such calls, and their bits are those of {job.call_size} rows"
    elif asked is None and job.call_size > 1:
        for path in folder.path.glob("shard-*"):  # of workers that were ended before they could say so
            path.unlink()
        job = replace(job, call_size=job.call_size // 2)
        folder.put(job)
        return job
    raise MemoryError(f"{error}. {smaller}.") from error


def read(out: str | Path) -> Iterator[Record]:
    """The samples in the folder of a job, in the order of its input, as far as they are there.

    Raises:
        FileNotFoundError: there is no job.
    """
    folder = Folder(Path(out))
    job = folder.job()
    if job is None:
        raise FileNotFoundError(f"{out} holds no job.")
    form = format_called(job.format)
    for block in range(job.blocks):
        path = form.path(folder.path, block)
        if path.exists():
            yield from form.read(path)


def _told(folder: Folder, job: Job, block: int, wrong: str) -> str:
    rows = job.rows_in(block)
    name = format_called(job.format).path(folder.path, block).name
    return f"{name} was damaged: {wrong}. Rows {rows.start} to {rows.stop - 1} were made again."


def _gone_on_with(folder: Folder, job: Job, source: Source | None, rows: Any, wanted: dict[str, Any]) -> Job:
    """The job of a folder, if it is the one that is wanted; its input may have moved.

    Raises:
        ValueError: it is another one.
    """
    plans = {path: _text(path, text) for path, text in job.plans.items()}
    if source is None:
        with folder.spooled(rows) as copy:
            job.check_same({**wanted, "plans": plans, "digest": copy.digest()}, folder.path)
        return job
    status = source.path.stat()
    where: dict[str, Any] = {"input": str(source.path), "changed": status.st_mtime_ns, "bytes": status.st_size}
    is_known = where == {name: getattr(job, name) for name in where}
    job.check_same({**wanted, "plans": plans, "digest": job.digest if is_known else source.digest()}, folder.path)
    if not is_known:
        job = replace(job, **where)
        folder.put(job)
    return job


def _text(path: str, known: str) -> str:
    """The plan file at `path`; what is `known` of it if it is gone."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return known


def _begun(folder: Folder, source: Source, model: Model, wanted: dict[str, Any], skip_bad: bool) -> Job:
    """A new job, all of whose rows have been looked at."""
    status = source.path.stat()
    recipes = Recipes(model, {})
    places, count = array("q"), 0
    bad: dict[int, int] = {}
    with replacing(folder.inside / "bad.jsonl") as partial, partial.open("w", encoding="utf-8") as out:

        def refuse(number: int, found: FoundRow, reason: str) -> None:
            bad[number] = found.line
            fields = found.row.fields() if isinstance(found.row, Row) else {}
            out.write(json.dumps({**fields, "line": found.line, "reason": reason}) + "\n")
            if not skip_bad:
                named.append(f"line {found.line}: {reason}")

        named: list[str] = []
        with Hashes(folder.inside) as ids:
            for number, found in enumerate(source.rows()):
                if number % wanted["shard_size"] == 0:
                    places.append(found.place)
                count = number + 1
                reason = found.row if isinstance(found.row, str) else _what_is_wrong(found.row, model, recipes)
                if reason is not None:
                    refuse(number, found, reason)
                    if len(named) >= NAMED:
                        break
                else:
                    assert isinstance(found.row, Row)
                    ids.add(found.row.id)
            repeated = ids.repeated()
        if repeated and len(named) < NAMED:
            for number, found, first in _of_known_ids(source, repeated, bad):
                refuse(number, found, f"the id {shown(found.row.id)} is that of line {first} already.")  # type: ignore[union-attr]
                if len(named) >= NAMED:
                    break
    if named:
        more = f"\n(and maybe more: these are the first {NAMED})" if len(named) >= NAMED else ""
        told = "\n".join(named)
        raise ValueError(f"{source.path} has rows that cannot be made; skip_bad goes on without them:\n{told}{more}")
    if count == len(bad):
        why = f"none of its {count} rows can be made, see {folder.inside / 'bad.jsonl'}" if count else "it has no rows"
        raise ValueError(f"{source.path}: {why}.")
    job = Job(
        input=str(source.path),
        changed=status.st_mtime_ns,
        bytes=status.st_size,
        digest=source.digest(),
        rows=count,
        bad=len(bad),
        plans=recipes.plans,
        **wanted,
    )
    folder.begin(job, places, sorted(bad))
    return job


def _what_is_wrong(row: Row, model: Model, recipes: Recipes) -> str | None:
    """The reason why `row` cannot be made; None if it can."""
    try:
        model.check(row)
        plan = recipes.of(row).plan
        if plan is not None and plan.reads_unguided and model.unconditional is None:
            return f"{row.sampler} needs the network's output without guidance: this model has none."
    except (ValueError, TypeError, ArithmeticError, ImportError) as error:
        return str(error)
    return None


def _of_known_ids(
    source: Source, repeated: frozenset[int], bad: Mapping[int, int]
) -> Iterator[tuple[int, FoundRow, int]]:
    """Rows whose id an earlier one has: the number, the row, and the line of the first with this id."""
    first: dict[str, int] = {}
    for number, found in enumerate(source.rows()):
        if number not in bad and isinstance(found.row, Row) and hash_of(found.row.id) in repeated:
            line = first.setdefault(found.row.id, found.line)
            if line != found.line:
                yield number, found, line
