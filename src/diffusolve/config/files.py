"""Finding and reading the file of a configuration."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from diffusolve.config.values import check_no_nan
from diffusolve.errors import shown
from diffusolve.hub import check_inside, is_path

__all__ = ["ConfigFileError", "local_config_file", "read_config_file"]


class ConfigFileError(OSError, ValueError):
    """A configuration file that is missing or cannot be read as one."""


def local_config_file(place: str | os.PathLike[str], name: str, subfolder: str | None) -> Path | None:
    """The file `name` in folder `place`, or `place` itself if it is a file; None if it can only be a repository's id.

    Raises:
        ConfigFileError: the folder is not there or has no such file.
        InvalidNameError: `subfolder` leads out of it.
    """
    check_inside(subfolder)
    path = Path(place)
    if path.is_file():
        return path
    if path.is_dir():
        folder = path / subfolder if subfolder else path
        if (folder / name).is_file():
            return folder / name
        raise ConfigFileError(_missing_file(path, folder, name))
    if isinstance(place, os.PathLike) or is_path(place):
        raise ConfigFileError(f"there is no folder {place} to load {name} from.")
    return None


def _missing_file(path: Path, folder: Path, name: str) -> str:
    if not folder.is_dir():
        there = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        return f"{path} has no folder {folder.relative_to(path)}: its folders are {_some(there)}."
    there = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    message = f"there is no file {name} in {folder}, only {_some(there)}."
    if folder != path and (path / name).is_file():
        return f"{message} One is in {path}: leave out subfolder."
    nested = sorted(found.parent.relative_to(path).as_posix() for found in path.glob(f"*/{name}"))
    if nested:
        return f'{message} One is in {nested[0]}: pass subfolder="{nested[0]}".'
    return message


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def read_config_file(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Raises:
        ConfigFileError: it cannot be read, is not JSON (with line and column), or no object.
        ValueError: a number in it is not one (NaN).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{path} is not text in UTF-8 (byte {error.start}), so it is no JSON.") from None
    if not text.strip():
        raise ConfigFileError(f"{path} is empty: a JSON object was expected.")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        conflict = re.search(r"^(<{7}|={7}|>{7})(?= |$)", text, re.MULTILINE)
        if conflict:
            line = text.count("\n", 0, conflict.start()) + 1
            raise ConfigFileError(
                f"{path} has an unresolved merge conflict: {conflict[0]!r} in line {line}. Choose one side, and delete "
                "the lines that begin with <<<<<<<, ======= and >>>>>>>."
            ) from None
        raise ConfigFileError(f"{path} is not JSON: {error.msg}, line {error.lineno}, column {error.colno}.") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists in lists
        absurd = re.search(r'"([^"\\]*)"\s*:\s*(?:-?\d{1000}|[\[{\s]{100})', text)
        where = f"{shown(absurd[1])}" if absurd else "a key"
        raise ConfigFileError(
            f"{path} has a value for {where} that is too large to read, a number of thousands of digits or lists in "
            "thousands of lists: expected one of the size that configurations have."
        ) from None
    if not isinstance(config, dict):
        kind = "a list" if isinstance(config, list) else f"the single value {text.strip()[:40]}"
        raise ConfigFileError(f"{path} holds {kind}: a JSON object was expected.")
    check_no_nan(config, str(path))
    return config
