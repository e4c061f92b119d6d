"""Every solver of the package, wherever it is defined."""

from __future__ import annotations

import importlib
from itertools import chain, pairwise
from pathlib import Path

import diffusolve
from diffusolve.noise import Grid, Scaling
from diffusolve.solvers import Solver

__all__ = ["EVERY_SOLVER", "as_taken_by"]


def _defined() -> dict[str, Solver]:
    package, found = Path(diffusolve.__path__[0]), {}
    for path in sorted(package.rglob("*.py")):
        if "@solver" in path.read_text(encoding="utf-8"):  # faces need packages that take seconds to import
            name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
            for value in vars(importlib.import_module(name)).values():
                if isinstance(value, Solver) and value.function.__module__ == name and not value.options:
                    found[value.name] = value
    return found


EVERY_SOLVER = _defined()
"""Name -> solver with its default options."""


def as_taken_by(solver: Solver, grid: Grid) -> Grid:
    """`grid` in a scaling where `solver` is right; for `pndm_by_calls` three points for each of PLMS's evaluations."""
    if solver.integrates_dx_dsigma and not grid.scaling.is_linear_in_sigma:
        grid = grid.in_scaling(Scaling.VARIANCE_EXPLODING if grid[0].alpha else Scaling.FLOW)
    if solver.name != "pndm_by_calls":
        return grid
    first, *others = ((s, s, t) for s, t in pairwise(grid))
    improved = (grid[1], grid[0], grid[1])  # the second evaluation of the improved Euler step
    return Grid(tuple(chain(first, improved, *others)), grid.noise_schedule, grid.scaling)
