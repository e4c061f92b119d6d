"""Files of rows, read as a stream: from the beginning, or a block from its place."""

from __future__ import annotations

import csv
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from diffusolve.bulk.rows import Row, row_from_text, row_of
from diffusolve.errors import shown

__all__ = ["FoundRow", "Source", "parquet", "source_of"]

READ = 1 << 20


class FoundRow(NamedTuple):
    """A row where it stands in its file."""

    line: int
    """The number of its line, from 1; of a Parquet file, of its row."""
    place: int
    """The number to give :meth:`Source.rows` to begin with it."""
    row: Row | str
    """The row, or what is wrong with it."""


class Source(ABC):
    """A file of rows.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def rows(self, place: int = 0) -> Iterator[FoundRow]:
        """The rows from `place` on, which is 0 for the first, or what a row that was found says."""

    def block(self, place: int, count: int) -> Iterator[FoundRow]:
        """`count` rows from `place` on."""
        return islice(self.rows(place), count)

    def digest(self) -> str:
        """The SHA-256 of the file, in hexadecimal."""
        sha = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(READ):
                sha.update(chunk)
        return sha.hexdigest()


class JsonLines(Source):
    """A JSON object in each line; empty lines are passed over."""

    def rows(self, place: int = 0) -> Iterator[FoundRow]:
        with self.path.open("rb") as file:
            file.seek(place)
            for line, text in enumerate(file, 1):
                if text.strip():
                    yield FoundRow(line, place, _of_json(text))
                place += len(text)


def _of_json(text: bytes) -> Row | str:
    try:
        return row_of(json.loads(text, object_pairs_hook=_without_repetition))
    except json.JSONDecodeError as error:
        return f"{shown(text[:200].decode(errors='replace').rstrip())} is no JSON object: {error}."
    except (ValueError, RecursionError) as error:  # text that is no UTF-8 is a ValueError too
        return str(error)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of `pairs`. Raises ValueError for a name that is there twice, of which one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{_repeated(name for name, _ in pairs)} is there twice.")
    return found


def _repeated(names: Iterable[str]) -> str | None:
    """The first of `names` that is there twice."""
    seen = set[str]()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


class CsvTable(Source):
    """Values with commas between them, the fields' names in the first line."""

    def rows(self, place: int = 0) -> Iterator[FoundRow]:
        with self.path.open("rb") as file:
            taken = 0

            def lines() -> Iterator[str]:
                nonlocal taken
                for text in file:
                    taken += len(text)
                    yield text.decode("utf-8-sig" if taken == len(text) else "utf-8", "replace")

            reader = csv.reader(lines())  # takes no more lines than its next record needs
            names = next(reader, [])
            if (repeated := _repeated(names)) is not None:
                raise ValueError(f"{self.path} has two columns {shown(repeated)}: expected one.")
            if place:
                file.seek(place)
                taken = place
                reader = csv.reader(lines())
            begins = taken
            for values in reader:
                if values:
                    yield FoundRow(reader.line_num, begins, _of_values(names, values))
                begins = taken


def _of_values(names: list[str], values: list[str]) -> Row | str:
    if len(values) != len(names):
        return f"it has {len(values)} values: expected {len(names)}, one for each of {', '.join(names)}."
    try:
        return row_from_text(dict(zip(names, values, strict=True)))
    except ValueError as error:
        return str(error)


class ParquetTable(Source):
    """A Parquet file; places are numbers of rows."""

    def rows(self, place: int = 0) -> Iterator[FoundRow]:
        file = self._opened()
        begins = first = 0
        while first < file.num_row_groups and begins + file.metadata.row_group(first).num_rows <= place:
            begins += file.metadata.row_group(first).num_rows
            first += 1
        for batch in file.iter_batches(1024, row_groups=range(first, file.num_row_groups)):
            for fields in batch.to_pylist():
                if begins >= place:
                    yield FoundRow(begins + 1, begins, _of_fields(fields))
                begins += 1

    def _opened(self) -> Any:
        opened = parquet("reading Parquet").ParquetFile
        import pyarrow as pa

        try:
            file = opened(self.path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path} is no Parquet file: {error}") from None
        if (repeated := _repeated(file.schema_arrow.names)) is not None:
            raise ValueError(f"{self.path} has two columns {shown(repeated)}: expected one.")
        return file


def _of_fields(fields: dict[str, Any]) -> Row | str:
    try:
        return row_of(fields)
    except ValueError as error:
        return str(error)


KINDS: dict[str, type[Source]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".csv": CsvTable,
    ".parquet": ParquetTable,
}


def source_of(path: Path) -> Source:
    """The rows in the file at `path`, whose ending says what it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another ending.
    """
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path} is no file of rows by its ending: expected one of {', '.join(KINDS)}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    return KINDS[path.suffix.lower()](path)


def parquet(purpose: str) -> Any:
    """The module pyarrow.parquet.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet as module
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs pyarrow, which is not installed: pip install 'diffusolve[bulk]'."
        ) from error
    return module
