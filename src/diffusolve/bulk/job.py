"""A job's folder: what the job is, which shards are complete, which rows cannot be made.

    DIR/shard-000000.parquet   the rows of the first block of the input; and so on
    DIR/failed.jsonl           rows that could not be made, when the job is over
    DIR/job/job.json           what is made of what, by what; the last file of the beginning
    DIR/job/blocks.npy         where each block begins in the input
    DIR/job/bad.npy            the numbers of the rows that are passed over, and in bad.jsonl why
    DIR/job/failed-000000.jsonl  rows of a block that could not be made, written before its shard
    DIR/job/shards.jsonl       a line for each shard that was completed, for restarts to know it by
    DIR/job/calls.json         how many rows the network was asked about at once, for each shape of samples

A block is done when its shard is there, whatever else was interrupted. The rest is there to be quick.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusolve.bulk.shards import Format, Made, format_called, made_of
from diffusolve.bulk.sources import Source, source_of
from diffusolve.errors import shown
from diffusolve.files import replacing, write_atomically

__all__ = ["Folder", "Job"]

PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")

MAY_DIFFER = ("input", "changed", "bytes")
"""Of a job, where its input lay when it began. Its content counts."""


@dataclass(frozen=True)
class Job:
    """All that determines a job's output.

    Attributes:
        input: the path of the rows.
        changed, bytes: when they were changed last, in nanoseconds, and their size.
        digest: of their content.
        rows: how many there are, those passed over included.
        bad: how many are passed over.
        shard_size: rows of the input in each shard.
        format: of the shards.
        model: its name.
        identity: what :class:`~diffusolve.bulk.Model` says of its numbers.
        device, threads, call_size: what the network is called on, by how many threads, and for how many rows at once.
        version: of this library.
        plans: path of a plan file -> its content.
    """

    input: str
    changed: int
    bytes: int
    digest: str
    rows: int
    bad: int
    shard_size: int
    format: str
    model: str
    identity: str
    device: str
    threads: int
    call_size: int
    version: str
    plans: dict[str, str]

    @property
    def blocks(self) -> int:
        """The number of blocks, each of which becomes a shard."""
        return -(-self.rows // self.shard_size)

    def rows_in(self, block: int) -> range:
        """The numbers of a block's rows, from 0."""
        return range(block * self.shard_size, min((block + 1) * self.shard_size, self.rows))

    def check_same(self, wanted: dict[str, Any], folder: Path) -> None:
        """Raise ValueError if something else is `wanted` than this job, saying what."""
        mine = asdict(self)
        for name, value in wanted.items():
            if name not in MAY_DIFFER and mine[name] != value:
                what = {"digest": "the content of the input", "plans": "the content of a plan file"}.get(name)
                differs = f"{what} is another" if what else f"{name} is {shown(mine[name])} there, {shown(value)} here"
                raise ValueError(
                    f"{folder} holds another job, that of {self.input} with {self.model}: {differs}. Give another "
                    "folder, or what was given there."
                )


def _plain(value: Any) -> Any:
    """A number or an array of NumPy's, as tables have them, in Python's own. Raises TypeError for anything else."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")


class Folder:
    """The folder of a job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inside = path / "job"

    def make(self) -> None:
        """Make the folder if there is none.

        Raises:
            ValueError: there is one, with other things in it.
            OSError: it cannot be made, or not be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file: give a folder.")
        self.path.mkdir(parents=True, exist_ok=True)
        others = [name for name in os.listdir(self.path) if name != "job" and not PARTIAL.fullmatch(name)]
        if others and not (self.inside / "job.json").is_file():
            raise ValueError(f"{self.path} holds {shown(sorted(others)[0])} and no job: give an empty folder, or none.")
        self.inside.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else works on the job in the ``with`` block.

        Raises:
            BlockingIOError: somebody does.
        """
        with (self.inside / "lock").open("w") as file:
            try:
                import fcntl
            except ImportError:  # Windows has none
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(
                    f"another process works on the job in {self.path}: wait for it, or end it."
                ) from None
            yield

    def clean(self) -> None:
        """Remove what was half written when somebody was killed."""
        for folder in (self.path, self.inside):
            for name in os.listdir(folder):
                if PARTIAL.fullmatch(name):
                    (folder / name).unlink(missing_ok=True)

    # The job

    def job(self) -> Job | None:
        """The job whose folder this is; None if it has not begun.

        Raises:
            ValueError: another version of the library wrote it.
        """
        path = self.inside / "job.json"
        if not path.is_file():
            return None
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return Job(**{field.name: held[field.name] for field in fields(Job)})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no job of this version of diffusolve: {error!r}.") from None

    def begin(self, job: Job, places: Iterable[int], bad: Iterable[int]) -> None:
        """Write down the job: where its blocks begin, and the numbers of bad rows."""
        for name, numbers in (("blocks", places), ("bad", bad)):
            with replacing(self.inside / f"{name}.npy") as partial, partial.open("wb") as file:
                np.save(file, np.asarray(numbers, np.int64))
        self.put(job)

    def put(self, job: Job) -> None:
        """Write down the job."""
        write_atomically(self.inside / "job.json", json.dumps(asdict(job), indent=1).encode())

    def put_calls(self, widths: Mapping[tuple[int, ...], tuple[int, str]]) -> None:
        """Write down how many samples of each shape the network was asked about at once, for whoever wants to know."""
        told = {"x".join(map(str, shape)): {"rows": rows, "no more": why} for shape, (rows, why) in widths.items()}
        write_atomically(self.inside / "calls.json", json.dumps(told, indent=1).encode())

    def places(self) -> npt.NDArray[np.int64]:
        """The place of each block in the input; not read before it is looked at."""
        return self._numbers("blocks")

    def bad(self, rows: range) -> frozenset[int]:
        """The rows among `rows` that are passed over, by their numbers."""
        numbers = self._numbers("bad")
        first, last = np.searchsorted(numbers, [rows.start, rows.stop])
        return frozenset(numbers[first:last].tolist())

    def _numbers(self, name: str) -> npt.NDArray[np.int64]:
        path = self.inside / f"{name}.npy"
        try:
            empty = path.stat().st_size <= 128  # of which no map can be made
            numbers: npt.NDArray[np.int64] = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path}, which the job in {self.path} needs, is damaged or gone: {error}. Begin it in another folder."
            ) from None
        return numbers

    def spool(self, rows: Iterable[Any], name: str = "rows.jsonl") -> Source:
        """`rows` that are in no file, as one in the folder.

        Raises:
            ValueError: a row that JSON cannot hold.
        """
        path = self.inside / name
        with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
            for number, row in enumerate(rows):
                try:
                    file.write(json.dumps(row, default=_plain) + "\n")
                except (TypeError, ValueError) as error:
                    raise ValueError(f"row {number} is {shown(row)}, which JSON cannot hold: {error}.") from None
        return source_of(path)

    @contextlib.contextmanager
    def spooled(self, rows: Iterable[Any]) -> Iterator[Source]:
        """`rows` as a file that is gone after the ``with`` block."""
        source = self.spool(rows, "rows-again.jsonl")
        try:
            yield source
        finally:
            source.path.unlink()

    # Shards

    def failures_path(self, block: int) -> Path:
        """The file of a block's rows that could not be made."""
        return self.inside / f"failed-{block:06}.jsonl"

    def note(self, block: int, made: Made, failed: int) -> None:
        """Write down that a shard is complete."""
        line = json.dumps({"block": block, "failed": failed, **made._asdict()})
        with (self.inside / "shards.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def complete(self, job: Job) -> tuple[dict[int, int], list[tuple[int, str]]]:
        """The blocks whose shards are there and sound, with the number of rows in them that failed; and the damaged
        shards, with what is wrong with each.

        A shard of the size and time that were written down is sound; others are read. Damaged ones are removed.
        """
        noted, form = self._noted(), format_called(job.format)
        found: dict[int, int] = {}
        damaged: list[tuple[int, str]] = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                block = form.block_of(entry.name)
                if block is None or not 0 <= block < job.blocks:
                    continue
                status, known = entry.stat(), noted.get(block)
                if known is not None and (status.st_size, status.st_mtime_ns) == (known["size"], known["changed"]):
                    found[block] = known["failed"]
                    continue
                written = made_of(Path(entry.path))
                wrong, failed = self._what_is_wrong(job, form, block, written, known)
                if wrong is None:
                    found[block] = failed
                    self.note(block, written, failed)
                else:
                    damaged.append((block, wrong))
                    os.unlink(entry.path)
        return found, sorted(damaged)

    def _noted(self) -> dict[int, Any]:
        """Block -> what is written down of its shard."""
        noted = {}
        with contextlib.suppress(FileNotFoundError), (self.inside / "shards.jsonl").open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut off
                    known = json.loads(line)
                    noted[int(known["block"])] = {name: known[name] for name in ("size", "changed", "digest", "failed")}
        return noted

    def _what_is_wrong(self, job: Job, form: Format, block: int, made: Made, known: Any) -> tuple[str | None, int]:
        """The fault of a shard, None if there is none; and the number of its rows that failed."""
        if known is not None:
            if made.digest == known["digest"]:
                return None, known["failed"]
            return f"it is not what was written ({made.size:,} bytes, {known['size']:,} were written)", 0
        failed = sum(1 for _ in self.failures(block))
        try:
            count = sum(1 for _ in form.read(form.path(self.path, block)))
        except Exception as error:  # whatever a reader makes of damage
            return f"it cannot be read: {error}", 0
        rows = job.rows_in(block)
        expected = len(rows) - len(self.bad(rows)) - failed
        return (None, failed) if count == expected else (f"it has {count} rows, not {expected}", 0)

    def failures(self, block: int) -> Iterator[bytes]:
        """The lines on a block's rows that could not be made."""
        with contextlib.suppress(FileNotFoundError), self.failures_path(block).open("rb") as file:
            yield from file

    def join_failures(self, blocks: Iterable[int]) -> int:
        """Write ``failed.jsonl``, bad rows first, or remove it if there are none; the number of its lines."""
        count = 0
        with replacing(self.path / "failed.jsonl") as partial, partial.open("wb") as out:
            with contextlib.suppress(FileNotFoundError), (self.inside / "bad.jsonl").open("rb") as bad:
                for line in bad:
                    out.write(line)
                    count += 1
            for block in blocks:
                for line in self.failures(block):
                    out.write(line)
                    count += 1
        if not count:
            (self.path / "failed.jsonl").unlink()
        return count
