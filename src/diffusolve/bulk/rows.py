"""Rows of a job: what is asked for, checked field by field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any

from diffusolve.errors import check_options, shown

__all__ = ["FIELDS", "Row", "row_from_text", "row_of"]

FIELDS = ("id", "seed", "sampler", "world", "steps", "guidance", "class", "prompt", "size")
"""The fields that a row may have; `id` and `seed` it must have."""

SPELLED_ELSEWHERE = {
    **dict.fromkeys(("cfg", "cfg_scale", "guidance_scale"), "guidance"),
    **dict.fromkeys(("num_inference_steps", "num_steps"), "steps"),
    **dict.fromkeys(("noise_seed", "generator"), "seed"),
    "label": "class",
}
"""Names that programs have for a field -> the field."""

LONGEST_ID = 500
"""The most characters of an id, which is a column of the output and no place for contents."""

MOST_STEPS = 1000
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Row:
    """One sample to be made.

    Attributes:
        id: the row's own name, unlike those of all others.
        seed: of the noise to start from and of that between steps.
        sampler: a name of the catalog, or the path of a plan that ends in ``.json``.
        world: the program whose reading of the name is meant, see :func:`diffusolve.sampler`.
        steps: how many; None for a plan, which has its own.
        guidance: the scale of classifier-free guidance; 1 is none.
        label: the row's `class`, a name or a number.
        prompt: for models that take text.
        size: (height, width) in pixels of the model's samples; its own when missing.
    """

    id: str
    seed: int
    sampler: str = "DPM++ 2M"
    world: str | None = None
    steps: int | None = 20
    guidance: float = 1.0
    label: str | None = None
    prompt: str | None = None
    size: tuple[int, int] | None = None

    @property
    def is_of_a_file(self) -> bool:
        """True if the sampler is a plan file."""
        return self.sampler.endswith(".json")

    def fields(self) -> dict[str, Any]:
        """The row as it is written out, by the names of :data:`FIELDS`."""
        return {
            "id": self.id,
            "seed": self.seed,
            "sampler": self.sampler,
            "world": self.world,
            "steps": self.steps,
            "guidance": self.guidance,
            "class": self.label,
            "prompt": self.prompt,
            "size": None if self.size is None else list(self.size),
        }


def row_of(fields: Mapping[str, Any]) -> Row:
    """The row that `fields` ask for; fields that are None are missing.

    Raises:
        ValueError: an unknown field, one that is missing, or a value that is not what it should be.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"a row is {shown(fields)}: expected fields by their names, {', '.join(FIELDS)}.")
    for name in map(str, fields):
        if name in SPELLED_ELSEWHERE:
            raise ValueError(f"{name!r} is no field of a row: its name here is {SPELLED_ELSEWHERE[name]!r}.")
    check_options("a row", map(str, fields), FIELDS)
    given = {name: value for name, value in fields.items() if value is not None}
    for name in ("id", "seed"):
        if name not in given:
            raise ValueError(f"{name} is missing: every row has an id and a seed.")
    for name in ("sampler", "world", "prompt"):
        if name in given and not isinstance(given[name], str):
            raise ValueError(f"{name} is {shown(given[name])}: expected text.")
    sampler = given.get("sampler", Row.sampler)
    if not sampler.endswith(".json"):
        steps = _whole("steps", given.get("steps", Row.steps), 1, MOST_STEPS)
    elif "steps" in given or "world" in given:
        raise ValueError(f"the sampler {shown(sampler)} is a plan, which has its own: leave steps and world out.")
    else:
        steps = None
    return Row(
        id=_id(given["id"]),
        seed=_whole("seed", given["seed"], 0, LARGEST_SEED),
        sampler=sampler,
        world=given.get("world"),
        steps=steps,
        guidance=_number("guidance", given.get("guidance", Row.guidance)),
        label=_label(given.get("class")),
        prompt=given.get("prompt"),
        size=_size(given.get("size")),
    )


def row_from_text(fields: Mapping[str, str]) -> Row:
    """The row of a table whose fields are all text, empty where they are missing. Raises as :func:`row_of`."""
    given: dict[str, Any] = {name: text for name, text in fields.items() if text != ""}
    for name in ("seed", "steps"):
        if name in given:
            given[name] = _read(name, given[name], int, "a whole number")
    if "guidance" in given:
        given["guidance"] = _read("guidance", given["guidance"], float, "a number")
    return row_of(given)


def _read(name: str, text: str, kind: Any, expected: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} is {shown(text)}: expected {expected}.") from None


def _id(value: Any) -> str:
    if type(value) is not str and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise ValueError(f"id is {shown(value)}: expected text or a whole number.")
    text = str(value)
    if not 0 < len(text) <= LONGEST_ID:
        raise ValueError(f"id is {shown(text)}: expected 1 to {LONGEST_ID} characters.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"id is {shown(text)}: expected text that UTF-8 can write.") from None
    return text


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, float) and value.is_integer():  # whole numbers of tables with gaps are read as floats
        value = int(value)
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise ValueError(f"{name} is {shown(value)}: expected a whole number.")
    number = int(value)
    if not least <= number <= most:
        raise ValueError(f"{name} is {shown(number)}: expected {least} to {most}.")
    return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"{name} is {shown(value)}: expected a finite number.")
    return float(value)


def _label(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | Integral | None):
        raise ValueError(f"class is {shown(value)}: expected a name or a whole number.")
    return None if value is None else str(value)


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)(?:x(\d+))?", value)):
        value = [int(found[1]), int(found[2] or found[1])]
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = [value, value]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"size is {shown(value)}: expected a whole number, [height, width] or HEIGHTxWIDTH.")
    height, width = (_whole("each number of size", length, 1, 1 << 20) for length in value)
    return height, width
