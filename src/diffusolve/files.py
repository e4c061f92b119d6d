"""Writing files so that nothing is ever half there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

__all__ = ["check_writable", "replacing", "write_atomically"]


def check_writable(path: Path) -> None:
    """Raise OSError unless a file could be written at `path`; call it before the work whose result goes there."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}.")
    if _is_device(path):
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}.") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whatever interrupts it, the path holds the old content or all of the new.

    Once it returns, the new content is there after a power cut too. A device or a pipe is written to as it is.
    """
    if _is_device(path):
        path.write_bytes(content)
        return
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new empty file beside `path` to write to; it takes its place at the end, and goes away if that fails.

    Its name cannot be guessed and is nobody else's: any number of threads and processes may write to one path, and the
    last one stays. A link at `path` is replaced, not followed.

    Raises:
        OSError: a file cannot be made there, or is not written to the disk.
    """
    partial = path.with_name(f".{token_hex(16)}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    try:
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
        if os.name == "posix":  # elsewhere folders cannot be opened
            _to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    """True if `path` is there and neither a file nor a folder: what is written there cannot be replaced."""
    return path.exists() and not (path.is_file() or path.is_dir())


def _to_disk(path: Path) -> None:
    """Wait until the disk holds a file's content, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
