"""Writing files so that nothing is ever half there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["check_writable", "write_atomically"]


def check_writable(path: Path) -> None:
    """Raise OSError unless a file could be written at `path`; call it before the work whose result goes there."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}.") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whatever interrupts it, the path holds the old content or all of the new."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
