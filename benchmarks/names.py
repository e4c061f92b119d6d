"""Every sampler and schedule type by its names, the tables of ``docs/names.md``: ``python -m benchmarks.names``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.worlds import tables
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, WORSE_THAN_EULER, Entry, ScheduleType

PAGE = Path(__file__).parent.parent / "docs" / "names.md"


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """`page` with its tables as the catalog has them, each between its comments."""
    made = {"samplers": samplers(), "schedule types": schedule_types(), "worse than Euler": worse()}
    made |= {name: markdown([rows[0], ["---"] * len(rows[0]), *rows[1:]]) for name, rows in tables().items()}
    for name, table in made.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
        before, rest = page.split(begin)
        page = f"{before}{begin}{table}\n{end}{rest.split(end)[1]}"
    return page


def samplers() -> str:
    """One row for each entry of the catalog."""
    heading = ["name", "A1111", "ComfyUI", "k-diffusion", "diffusers"]
    return markdown([heading, ["---"] * len(heading), *map(row, CATALOG.values())])


def row(entry: Entry) -> list[str]:
    """An entry's names; of the class also its options and what is different about it."""
    there = entry.diffusers
    if there is None:
        where = f"none; nearest: {entry.nearest}"
    else:
        where = code(there.name + options(there.config))
        where += "" if there.in_diffusers else " (ours)"
        where += f"; {there.difference}" if there.difference else ""
    function = "-" if entry.k_diffusion is None else f"`{entry.k_diffusion}`"
    return [entry.name, "yes" if entry.a1111 else "-", ", ".join(map(code, entry.comfyui)) or "-", function, where]


def schedule_types() -> str:
    """One row for each schedule type."""
    heading = ["name", "A1111", "ComfyUI", "diffusers", "here"]
    return markdown([heading, ["---"] * len(heading), *map(type_row, SCHEDULE_TYPES.values())])


def type_row(made: ScheduleType) -> list[str]:
    """A schedule type's names."""
    comfyui = "-" if made.comfyui is None else code(made.comfyui)
    return [
        made.name,
        made.a1111 or "-",
        comfyui,
        code(options(made.config)) if made.config else "-",
        code(type(made.spacing).__name__),
    ]


def options(config: Mapping[str, object]) -> str:
    """Configuration keys as arguments."""
    return f"({', '.join(f'{key}={value!r}' for key, value in config.items())})" if config else ""


def code(text: str) -> str:
    """`text` as code."""
    return f"`{text}`"


def worse() -> str:
    """One row for each deterministic sampler that is worse than Euler somewhere."""
    rows = [[name, "all" if len(on) == len(SCHEDULE_TYPES) else ", ".join(on)] for name, on in WORSE_THAN_EULER.items()]
    return markdown([["name", "on"], ["---", "---"], *rows])


def markdown(rows: Iterable[list[str]]) -> str:
    """`rows` as a table."""

    def lines() -> Iterator[str]:
        for cells in rows:
            yield f"| {' | '.join(cells)} |"

    return "\n".join(lines())


if __name__ == "__main__":
    main()
