"""A solver: the generator function with its options and what is known about it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from diffusolve.errors import check_numbers, check_options
from diffusolve.noise import Grid
from diffusolve.solvers.requests import SolverRun, Value
from diffusolve.solvers.sigma_alone import after_percent, in_sigma_alone
from diffusolve.solvers.skipping import skipping

__all__ = ["COMMON_OPTIONS", "Solver", "solver"]

COMMON_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"start_percent": 0.0, "sigma_alone": False, "skip_every": 0, "skip_order": 2}
)
"""Options of every solver with their defaults; the first two are about flow matching as ComfyUI has it.

- `start_percent`: a run that begins at alpha = 0 takes its first step from this part of the training time on, where
  log-SNR is finite, with the sample left as it is. 0 takes the limit in its place, where the solver has one.
- `sigma_alone`: steps in sigma as if alpha were 1 (:mod:`diffusolve.solvers.sigma_alone`).
- `skip_every`: of so many steps one asks the network nothing (:mod:`diffusolve.solvers.skipping`); 0 for none. Its
  noise prediction is extrapolated from those of the last `skip_order` steps that did.
"""


@dataclass(frozen=True)
class Solver:
    """A generator function ``function(grid, x, **options)`` that reads like its paper.

    Solvers are values: equal functions with equal options are equal solvers.

    Attributes:
        function: the algorithm; yields :mod:`requests <diffusolve.solvers.requests>`.
        paper: where the algorithm stands.
        options: the options that differ from the function's defaults, sorted by name.
        integrates_dx_dsigma: it integrates ``dx/dsigma = (x - x0) / sigma``, which holds where alpha is 1 or 1 - sigma;
            on other noise schedules it therefore runs on samples scaled to alpha = 1.
        adaptive: it looks at the data to choose its steps, so there is no plan for it.
    """

    function: Callable[..., SolverRun]
    paper: str
    options: tuple[tuple[str, Any], ...] = ()
    integrates_dx_dsigma: bool = False
    adaptive: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    def __call__(self, grid: Grid, x: Value) -> SolverRun:
        """Start the algorithm on `x`, the sample at ``grid[0]``."""
        options = dict(self.options)
        percent, alone, every, order = (options.pop(name, default) for name, default in COMMON_OPTIONS.items())
        if percent:
            grid = after_percent(grid, percent)
        run = in_sigma_alone(self.function, grid, x, **options) if alone else self.function(grid, x, **options)
        if every and self.adaptive:
            raise ValueError(f"{self.name} chooses its steps by the data: skip_every is for solvers that do not.")
        return skipping(run, every, order, len(grid) - 1) if every else run

    def with_options(self, **options: Any) -> Solver:
        """The same solver with some options set.

        Raises:
            UnknownNameError: the solver has no such option.
            ValueError: a value is NaN, or a fraction where the default is a whole number.
            TypeError: a value is text where the default is a number.
        """
        check_options(self.name, options, self.defaults)
        kinds = {name: type(default) for name, default in self.defaults.items()}
        whole = [name for name, kind in kinds.items() if kind is int]
        check_numbers(self.name, options, whole, [name for name, kind in kinds.items() if kind in (int, float)])
        plain = {name: _plain(value, self.defaults[name]) for name, value in options.items()}
        values = {**dict(self.options), **plain}
        changed = {name: value for name, value in values.items() if value != self.defaults[name]}
        return replace(self, options=tuple(sorted(changed.items())))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Every option with the value that it has when not given."""
        parameters = inspect.signature(self.function).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return {**own, **COMMON_OPTIONS}

    def __reduce__(self) -> tuple[Callable[..., Solver], tuple[str, str, dict[str, Any]]]:
        # By name: the decorator has put the solver where pickle would look for the function.
        return _by_name, (self.function.__module__, self.function.__qualname__, dict(self.options))

    def __str__(self) -> str:
        return self.name + "(" + ", ".join(f"{name}={value!r}" for name, value in self.options) + ")"


def _by_name(module: str, name: str, options: dict[str, Any]) -> Solver:
    found: Solver = getattr(importlib.import_module(module), name)
    return found.with_options(**options)


def solver(
    *, paper: str, integrates_dx_dsigma: bool = False, adaptive: bool = False
) -> Callable[[Callable[..., SolverRun]], Solver]:
    """Decorator: make a generator function a :class:`Solver`. Its keyword-only arguments are its options."""

    def decorate(function: Callable[..., SolverRun]) -> Solver:
        decorated = Solver(function, paper, integrates_dx_dsigma=integrates_dx_dsigma, adaptive=adaptive)
        object.__setattr__(decorated, "__doc__", f"{inspect.cleandoc(function.__doc__ or '')}\n\nSource: {paper}.")
        return decorated

    return decorate


def _plain(value: Any, default: Any) -> Any:
    """`value` in the type of `default` where that is the same number, so that equal solvers also print the same.

    Lists become tuples, and dictionaries tuples of pairs, since plans are found by their solver's options.
    """
    if isinstance(value, Mapping):
        return tuple((key, _plain(item, None)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_plain(item, None) for item in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return value
    if isinstance(default, float) and isinstance(value, Real):
        return float(value)
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    return int(value) if isinstance(default, int) and whole else value
