"""Checks of what several commands are asked for, cheap enough to come before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diffusolve.errors import check_finite

if TYPE_CHECKING:
    from diffusolve.plan import Plan

__all__ = ["check_asked", "plan_in"]

MOST_SAMPLES = 10_000
"""The most samples of one command: a picture of more shows nobody anything."""

BYTES_OF_A_DIGIT = 4 * 8 * 8


def check_asked(counts: Mapping[str, int], num: int, seed: int, guidance: float) -> None:
    """Raise ValueError for one of the `counts` or a number of samples below 1, or what no run could make.

    Args:
        counts: name -> value, other than the number of samples.
        num: how many samples, all of which are made at once.
        seed: of the first.
        guidance: the scale of classifier-free guidance.
    """
    for what, value in {**counts, "num": num}.items():
        if value < 1:
            raise ValueError(f"{what} is {value}: expected at least 1.")
    if num > MOST_SAMPLES:
        memory = num * BYTES_OF_A_DIGIT / 1e9
        reason = f": so many digits of 8 x 8 pixels alone would take {memory:,.1f} GB of memory" * (memory >= 1)
        raise ValueError(
            f"num is {num}: expected at most {MOST_SAMPLES}. All samples are made at once, for one picture{reason}. "
            "diffusolve generate makes files of any number."
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}: expected 0 or more.")
    check_finite("guidance", guidance)


def plan_in(path: Path) -> Plan:
    """The plan in the file at `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    from diffusolve.plan import Plan

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: expected a plan as JSON.")
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # text that is no UTF-8 is a ValueError too
        raise ValueError(f"{path}: {error}") from None
