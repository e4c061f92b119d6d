"""Shards: files of finished rows, a block of the input in each, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from diffusolve import __version__
from diffusolve.bulk.rows import Row
from diffusolve.bulk.sources import parquet
from diffusolve.errors import unknown_name
from diffusolve.files import replacing

__all__ = ["FORMATS", "Format", "Made", "Record", "check_pictures", "format_called", "record_of"]

ROWS_TOGETHER = 128
"""Rows that a reader of Parquet holds at once."""


class Made(NamedTuple):
    """A file as it was written."""

    size: int
    changed: int
    """The time of its last change, in nanoseconds."""
    digest: str


class Record(NamedTuple):
    """A row that was made: its fields and `version`, `evaluations`, `shape` and `dtype`, and its sample."""

    fields: dict[str, Any]
    sample: npt.NDArray[Any]
    image: bytes | None
    """The picture as a PNG file."""


def record_of(row: Row, sample: npt.NDArray[Any], pixels: npt.NDArray[np.uint8] | None, evaluations: int) -> Record:
    """The record of a row that was made."""
    fields = row.fields() | {"evaluations": evaluations, "version": __version__}
    fields |= {"shape": list(sample.shape), "dtype": str(sample.dtype)}
    return Record(fields, np.ascontiguousarray(sample), None if pixels is None else _png(pixels))


def check_pictures() -> None:
    """Raise ImportError if the package that writes pictures is missing."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "writing pictures needs Pillow, which is not installed: pip install 'diffusolve[bulk]'."
        ) from error


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """`pixels`, shape (height, width) or (height, width, 3), as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Format(ABC):
    """A kind of files that shards can be."""

    name: ClassVar[str]
    ending: ClassVar[str]

    def path(self, folder: Path, block: int) -> Path:
        """The shard of a block of rows."""
        return folder / f"shard-{block:06}{self.ending}"

    def block_of(self, name: str) -> int | None:
        """The block whose shard has this file name, if one has."""
        number = name.removeprefix("shard-").removesuffix(self.ending)
        good = name == f"shard-{number}{self.ending}" and number.isdecimal()
        return int(number) if good else None

    def write(self, path: Path, records: Sequence[Record]) -> Made:
        """Write a shard, of which there is nothing to be seen before it is complete and on the disk.

        Raises:
            OSError: it cannot be written; nothing is left behind.
        """
        with replacing(path) as partial:
            self._write(partial, records)
            written = made_of(partial)
        return written._replace(changed=path.stat().st_mtime_ns)

    @abstractmethod
    def check(self) -> None:
        """Raise ImportError if a package is missing."""

    @abstractmethod
    def _write(self, path: Path, records: Sequence[Record]) -> None: ...

    @abstractmethod
    def read(self, path: Path) -> Iterator[Record]:
        """The records of a shard, in the order of the input. A damaged file raises an exception of any kind."""


def made_of(path: Path) -> Made:
    """The size, time and digest of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    status = path.stat()
    return Made(status.st_size, status.st_mtime_ns, sha.hexdigest()[:32])


class Parquet(Format):
    """Parquet files: columns `id`, `array` (raw bytes, in C order), `shape`, `dtype`, `image` (PNG), and all fields."""

    name = "parquet"
    ending = ".parquet"

    def check(self) -> None:
        parquet("writing Parquet")

    def _write(self, path: Path, records: Sequence[Record]) -> None:
        import pyarrow as pa

        schema = pa.schema(
            {
                "id": pa.string(),
                "array": pa.binary(),
                "shape": pa.list_(pa.int32()),
                "dtype": pa.string(),
                "image": pa.binary(),
                "seed": pa.int64(),
                "sampler": pa.string(),
                "world": pa.string(),
                "steps": pa.int32(),
                "guidance": pa.float64(),
                "class": pa.string(),
                "prompt": pa.string(),
                "size": pa.list_(pa.int32()),
                "evaluations": pa.int32(),
                "version": pa.string(),
            }
        )
        rows = [record.fields | {"array": record.sample.tobytes(), "image": record.image} for record in records]
        table = pa.Table.from_pylist(rows, schema)
        parquet("writing Parquet").write_table(table, path, row_group_size=ROWS_TOGETHER)

    def read(self, path: Path) -> Iterator[Record]:
        file: Any = parquet("reading Parquet").ParquetFile(path)
        for batch in file.iter_batches(ROWS_TOGETHER):
            for fields in batch.to_pylist():
                array, image = fields.pop("array"), fields.pop("image")
                yield Record(fields, _sample(array, fields), image)


class WebDataset(Format):
    """Tar files as WebDataset reads them: ``KEY.json`` with all fields, ``KEY.npy`` and ``KEY.png`` of each row.

    The key is the number of the row in its shard, since an id may hold what file names cannot.
    """

    name = "webdataset"
    ending = ".tar"

    def check(self) -> None:
        """Nothing is needed."""

    def _write(self, path: Path, records: Sequence[Record]) -> None:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, record in enumerate(records):
                array = io.BytesIO()
                np.save(array, record.sample, allow_pickle=False)
                parts = {"json": json.dumps(record.fields).encode(), "npy": array.getvalue(), "png": record.image}
                for ending, content in parts.items():
                    if content is not None:
                        member = tarfile.TarInfo(f"{number:06}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))

    def read(self, path: Path) -> Iterator[Record]:
        parts: dict[str, bytes] = {}
        with tarfile.open(path, "r") as tar:
            key = None
            for member in tar:
                begins, _, ending = member.name.partition(".")
                if begins != key and parts:
                    yield _from_parts(parts)
                    parts = {}
                file = tar.extractfile(member)
                assert file is not None
                key, parts[ending] = begins, file.read()
            if tar.offset + tarfile.BLOCKSIZE > path.stat().st_size:
                raise tarfile.ReadError("it has no end")
        if parts:
            yield _from_parts(parts)


def _from_parts(parts: Mapping[str, bytes]) -> Record:
    return Record(json.loads(parts["json"]), np.load(io.BytesIO(parts["npy"]), allow_pickle=False), parts.get("png"))


def _sample(array: bytes, fields: Mapping[str, Any]) -> npt.NDArray[Any]:
    sample: npt.NDArray[Any] = np.frombuffer(array, fields["dtype"]).reshape(fields["shape"])
    return sample


FORMATS: Mapping[str, Format] = {each.name: each for each in (Parquet(), WebDataset())}


def format_called(name: str) -> Format:
    """The format with this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return FORMATS[name]
