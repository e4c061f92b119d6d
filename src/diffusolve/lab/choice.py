"""The choice that somebody made on the page, as a value that a link can hold."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, WORLD_NAMES, WORLDS
from diffusolve.catalog import sampler as sampler_called
from diffusolve.errors import UnknownNameError, check_finite, unknown_name
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler

__all__ = ["OWN", "Choice", "named", "names_of", "parts_of", "plan_called", "recipes_of", "schedules_of"]

OWN = "diffusolve"
"""The world of the library's own names, which are written without a world before them."""

PLAN = "plan: "
"""The beginning of the name of a plan that was dropped in."""

MOST_SAMPLES, MOST_STEPS, MOST_CELLS = 64, 1000, 64


@dataclass(frozen=True)
class Choice:
    """A comparison to make.

    Attributes:
        model: a name that ``diffusolve sample --model`` takes.
        samplers: by name; of a world as ``comfyui: euler beta``.
        steps: how many, each a column.
        num: how many samples.
        seed: of the first sample; the next ones have the numbers after it.
        guidance: scale of classifier-free guidance; 1 is none.
        label: the class to make; empty for all in turn.
        prompt: of text-to-image pipelines.
        error: measure the distance to the exact solution.
    """

    model: str = "emoji"
    samplers: tuple[str, ...] = ("Euler", "DPM++ 2M Karras", "UniPC")
    steps: tuple[int, ...] = (5, 10, 20)
    num: int = 4
    seed: int = 0
    guidance: float = 2.0
    label: str = ""
    prompt: str = ""
    error: bool = True

    def query(self) -> str:
        """The choice as the query of a link; what is as in the default choice is left out, and so are plans."""
        written: dict[str, str] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "samplers":
                value = tuple(name for name in value if not name.startswith(PLAN))
            if value != field.default:
                written[field.name] = _text(value)
        return urlencode(written)

    @classmethod
    def from_query(cls, query: Mapping[str, str], base: Choice | None = None) -> Choice:
        """The choice in the query of a link; what it leaves out is as in `base`, or the default choice.

        Raises:
            ValueError: a value that is not one; names are looked up when the comparison is made.
        """
        base = base or cls()
        changes: dict[str, object] = {}
        for name, text in query.items():
            if name in ("samplers", "steps"):
                parts = tuple(part.strip() for part in text.split(",") if part.strip())
                changes[name] = parts if name == "samplers" else whole_numbers("steps", text)
            elif name in ("num", "seed"):
                changes[name] = whole_number(name, text)
            elif name == "guidance":
                changes[name] = number(name, text)
            elif name == "error":
                changes[name] = text != "no"
            elif name in ("model", "label", "prompt"):
                changes[name] = text
        return dataclasses.replace(base, **changes)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ValueError for a number out of its range, or where there is nothing to compare."""
        if not self.samplers:
            raise ValueError("there is nothing to compare: add a sampler.")
        for steps in self.steps:
            check_between("steps", steps, 1, MOST_STEPS)
        check_between("samples", self.num, 1, MOST_SAMPLES)
        check_between("seed", self.seed, 0, 2**53)
        check_finite("guidance", self.guidance)
        cells = len(self.samplers) * len(self.steps)
        if cells > MOST_CELLS:
            raise ValueError(
                f"{len(self.samplers)} samplers in {len(self.steps)} numbers of steps are {cells} runs: expected at "
                f"most {MOST_CELLS}."
            )


def check_between(what: str, value: int, least: int, most: int) -> None:
    """Raise ValueError unless `value` is between `least` and `most`."""
    if not least <= value <= most:
        raise ValueError(f"{what} is {value}: expected {least} to {most:,}.")


def whole_number(what: str, text: str) -> int:
    """The whole number in `text`. Raises ValueError."""
    if not re.fullmatch(r"\s*-?\d{1,15}\s*", text):
        raise ValueError(f"{what} is {text!r}: expected a whole number.")
    return int(text)


def whole_numbers(what: str, text: str) -> tuple[int, ...]:
    """The whole numbers in `text`, with commas or spaces between, each once. Raises ValueError where there is none."""
    parts = re.split(r"[,\s]+", text.strip())
    if parts == [""]:
        raise ValueError(f"{what} is empty: expected whole numbers, for example 5, 10, 20.")
    return tuple(dict.fromkeys(whole_number(what, part) for part in parts))


def number(what: str, text: str) -> float:
    """The number in `text`. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} is {text!r}: expected a number.") from None


def names_of(world: str) -> list[str]:
    """The samplers of a world, or of the library itself. Raises UnknownNameError for another world."""
    if world == OWN:
        return list(CATALOG)
    if world in WORLDS:
        return list(WORLDS[world].samplers)
    if world not in WORLD_NAMES:
        raise unknown_name("world", world, [OWN, *WORLD_NAMES])
    return sorted(
        {entry.diffusers.name for entry in CATALOG.values() if entry.diffusers and not _refused(entry.diffusers.name)}
    )


def schedules_of(world: str) -> list[str]:
    """The schedules of a world by its names."""
    if world in WORLDS:
        return list(WORLDS[world].schedules)
    kinds = SCHEDULE_TYPES.values()
    return [kind.name for kind in kinds if world == OWN or kind.config is not None]


def named(world: str, name: str, schedule: str | None = None) -> str:
    """A sampler as :attr:`Choice.samplers` has it."""
    text = f"{name} {schedule}" if schedule else name
    return text if world == OWN else f"{world}: {text}"


def recipes_of(names: Sequence[str], plans: Mapping[str, Plan]) -> dict[str, Sampler | Plan]:
    """The samplers and plans of a choice, by its names.

    Raises:
        UnknownNameError: no such sampler, world or plan; the nearest names are offered.
    """
    return {name: plan_called(name, plans) if name.startswith(PLAN) else _sampler(name) for name in names}


def plan_called(name: str, plans: Mapping[str, Plan]) -> Plan:
    """The plan that was dropped in by that name."""
    if name not in plans:
        raise UnknownNameError(f"{name!r} is not here: drop its file in again, since links hold no plans.")
    return plans[name]


def _sampler(name: str) -> Sampler:
    world, of_world, schedule = parts_of(name)
    return sampler_called(of_world, schedule, world=world)


def parts_of(name: str) -> tuple[str | None, str, str | None]:
    """The world, the name there and the schedule of a sampler of :attr:`Choice.samplers`.

    There is no world for the library's own names, and the schedule is apart for classes of diffusers only.
    """
    world, colon, rest = (part.strip() for part in name.partition(":"))
    if not colon:
        return None, name, None
    of_class, _, schedule = rest.partition(" ")
    return (world, of_class, schedule or None) if world == "diffusers" else (world, rest, None)


def _refused(class_name: str) -> bool:
    """True of a scheduler class whose steps no sampler makes."""
    try:
        sampler_called(class_name, world="diffusers")
    except ValueError:
        return True
    return False


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
