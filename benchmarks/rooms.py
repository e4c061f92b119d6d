"""The rooms of the package and who may import whom, the table of ARCHITECTURE.md: ``python -m benchmarks.rooms``.

`tests/test_imports.py` holds the code and the page to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

PAGE = Path(__file__).parent.parent / "ARCHITECTURE.md"
BEGIN, END = "<!-- begin rooms -->\n", "<!-- end rooms -->\n"


class Room(NamedTuple):
    """A folder or a file of the package: what lives there, and the rooms that it may import from."""

    summary: str
    knows: frozenset[str]


LEAVES = {"errors", "arrays", "files"}
SAMPLING = {"noise", "spacing", "prediction", "solvers", "plan", "backends", "randomness"}

ROOMS: Mapping[str, Room] = MappingProxyType(
    {
        name: Room(summary, frozenset(knows))
        for name, summary, knows in (
            ("errors", "errors that offer the nearest choice", ()),
            ("arrays", "what is said differently to torch and to array-API libraries", ()),
            ("files", "writing files whole or not at all", ()),
            ("drawing", "tables as HTML, curves as figures: what notebooks and pages show", ()),
            (
                "noise",
                "`NoiseSchedule` and its kinds, `Scaling` (how a sample is scaled), `Point`, `Grid`",
                {"errors", "drawing"},
            ),
            (
                "spacing",
                "where the steps fall: a rule that makes a `Grid` from a schedule and a number of steps",
                {"errors", "noise"},
            ),
            ("prediction", "what a network's output means, as two numbers", {"errors", "noise"}),
            ("solvers", "one file per family; requests; no NumPy, no torch", {"errors", "noise"}),
            ("plan", "tracing, the table, liveness, JSON", {"errors", "drawing", "noise", "prediction", "solvers"}),
            (
                "backends",
                "lowering a plan; running it on torch tensors (compiled module, torch.compile, or term by term) or on "
                "arrays of any array-API library, as one table of numbers, or as a torch module (`PlanModule`)",
                {"errors", "arrays", "plan"},
            ),
            (
                "randomness",
                "seeds, generators, noise per sample, noise from a counter, Brownian paths",
                {"errors", "arrays"},
            ),
            ("sampling", "`Sampler`, `sample()`, direct execution", LEAVES | SAMPLING | {"drawing"}),
            (
                "batching",
                "`BatchRun`: rows of any plans at any positions, advanced together; a row group holds those of one "
                "shape",
                {"arrays", "backends", "plan", "randomness"},
            ),
            (
                "denoisers",
                "exact denoisers, wrappers, small networks with their data, pipelines of diffusers; all by name",
                {"errors", "arrays", "noise", "prediction"},
            ),
            ("hub", "files of the Hugging Face Hub, fetched and pushed", LEAVES),
            ("config", "constructor arguments as a frozen configuration, and its files", LEAVES | {"hub"}),
            (
                "diffusers_bridge",
                "being taken by diffusers' pipelines for one of their own, without importing them",
                LEAVES,
            ),
            (
                "schedulers",
                "diffusers-compatible classes: a signature, a docstring, a mapping to (noise, spacing, prediction, "
                "solver); one base that walks the plan inside a pipeline's loop",
                LEAVES | SAMPLING | {"drawing", "hub", "config", "diffusers_bridge"},
            ),
            (
                "tokens",
                "schedulers of token models, masked or corrupted ids: no step is linear in the sample, none has a "
                "plan; they share configuration and saving",
                LEAVES | {"config", "schedulers"},
            ),
            (
                "k_diffusion",
                "k-diffusion's functions and wrappers: a signature, a docstring, a solver; one loop over a run",
                LEAVES | SAMPLING | {"sampling"},
            ),
            (
                "catalog",
                "names that people use -> `Sampler`",
                {
                    "errors",
                    "files",
                    "drawing",
                    "noise",
                    "spacing",
                    "solvers",
                    "sampling",
                    "config",
                    "schedulers",
                    "k_diffusion",
                },
            ),
            (
                "workers",
                "processes of this machine or actors of Ray: they answer once, or are known to be gone",
                set(),
            ),
            (
                "learning",
                "plans fitted to a network: an exact teacher, least squares on its path, gradients, the judgement of "
                "plans; a scheduler that walks plans",
                LEAVES | SAMPLING | {"sampling", "denoisers", "config", "schedulers", "catalog", "workers"},
            ),
            (
                "serving",
                "an asyncio front end that serves requests from one mixed batch; metrics",
                LEAVES | SAMPLING | {"sampling", "batching", "catalog"},
            ),
            (
                "bulk",
                "files of rows made on one machine or many: one mixed batch per worker, shards, going on after a stop",
                LEAVES | SAMPLING | {"sampling", "batching", "denoisers", "catalog", "workers"},
            ),
            (
                "comparing",
                "samplers side by side on one model: samples, distance to the exact solution, evaluations, time",
                LEAVES | SAMPLING | {"drawing", "sampling", "denoisers", "catalog"},
            ),
            (
                "lab",
                "a page to try samplers on: the choice, what it computes, how that is shown",
                LEAVES | SAMPLING | {"drawing", "sampling", "denoisers", "catalog", "comparing"},
            ),
        )
    }
)
"""Name -> room, in the order that data flow through them: each may only know rooms that come before it."""

FACES = MappingProxyType({"cli": "the program"})
"""Name -> what lives there. These may import whatever is above, and nothing imports them."""


def known(room: str) -> str:
    """The rooms that `room` may import from, in words: all above it, all but a few, or the few that there are."""
    above = list(ROOMS)[: list(ROOMS).index(room)]
    knows = ROOMS[room].knows
    others = [name for name in above if name not in knows]
    if not knows:
        return "-"
    if not others:
        return "all above"
    if len(others) < len(knows):
        return f"all above but {_listed(others)}"
    return _listed([name for name in above if name in knows])


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def table() -> str:
    """The table of the rooms."""
    rows = [f"| `{name}` | {room.summary} | {known(name)} |\n" for name, room in ROOMS.items()]
    rows += [f"| `{name}` | {summary} | all above |\n" for name, summary in FACES.items()]
    return "".join(["| room | what lives there | may import |\n", "| --- | --- | --- |\n", *rows])


def filled(page: str) -> str:
    """`page` with the table between its comments."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def main() -> None:
    """Write the table into the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
