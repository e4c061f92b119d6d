"""Ids that must differ, of any number of rows, in little memory."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

__all__ = ["Hashes", "hash_of"]

CHUNK = 1 << 17
"""Hashes that are held before they go to files: a megabyte."""

FILES = 64
"""Files that they are divided among by their first bits, each of which is sorted on its own: 13 MB for 1e8 rows."""


def hash_of(id: str) -> int:
    """64 bits that differ for different ids but for one chance in 2^64."""
    return int.from_bytes(blake2b(id.encode(), digest_size=8).digest(), "little")


class Hashes:
    """Hashes of ids, on disk but for the last few; to be used in a ``with`` block, after which the files are gone.

    Equal ids have equal hashes. The other way round is true but by chance, so that whoever finds some repeated looks
    at the ids themselves.

    Args:
        folder: where the files go, eight bytes for each id.
    """

    def __init__(self, folder: Path) -> None:
        self._held = array("Q")
        self._folder = TemporaryDirectory(dir=folder, prefix="ids-")

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def add(self, id: str) -> None:
        """Take in the hash of `id`."""
        self._held.append(hash_of(id))
        if len(self._held) >= CHUNK:
            self._put_away()

    def repeated(self) -> frozenset[int]:
        """The hashes that are there more than once."""
        self._put_away()
        found: set[int] = set()
        for path in sorted(Path(self._folder.name).iterdir()):
            values = np.sort(np.fromfile(path, np.uint64))
            found |= set(values[1:][values[1:] == values[:-1]].tolist())
        return frozenset(found)

    def _put_away(self) -> None:
        values = np.sort(np.array(self._held, np.uint64))
        bounds = np.searchsorted(values >> np.uint64(58), np.arange(FILES + 1))
        for number, (begin, end) in enumerate(pairwise(bounds)):
            if begin < end:
                with (Path(self._folder.name) / f"{number:02}").open("ab") as file:
                    file.write(values[begin:end].tobytes())
        self._held = array("Q")
