"""The computation of a choice: its cells one after the other, its place, and an end when somebody asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Event, Lock
from typing import Any

from diffusolve.catalog import SCHEDULE_TYPES, differences_in_world, entry_in_world, to_diffusers
from diffusolve.comparing.cells import Cell, plan_of
from diffusolve.comparing.comparison import Place, cells_of
from diffusolve.comparing.exact import ExactSolution
from diffusolve.lab.choice import PLAN, Choice, parts_of, recipes_of
from diffusolve.plan import Plan
from diffusolve.sampling import Progress, Sampler

__all__ = ["Experiment", "Stopped", "configuration_of", "plans_of", "read_plan"]

EXACT_STEPS = 100
"""Of the solution that errors are measured against: in the plots nobody sees the difference to more."""


class Stopped(Exception):
    """Somebody asked for an end."""


@dataclass
class Experiment:
    """One comparison: its cells so far, and where it is. Made by one thread, stopped by any.

    Attributes:
        choice: what is compared.
        plans: those dropped in, by name.
        cells: sampler -> number of steps -> cell, those that are done; never changed, but replaced by a longer one.
        recipes: sampler -> sampler or plan.
        network: what was sampled; None before it is loaded.
        place: where it is, in words.
        done: the share that is done, 0 to 1.
    """

    choice: Choice
    plans: Mapping[str, Plan] = field(default_factory=dict)
    cells: Mapping[str, Mapping[int, Cell]] = field(default_factory=dict)
    recipes: dict[str, Sampler | Plan] = field(default_factory=dict)
    network: Any = None
    place: str = "loading the model"
    done: float = 0.0
    _stop: Event = field(default_factory=Event)

    def stop(self) -> None:
        """Ask for an end: :meth:`run` raises :class:`Stopped` at the next step."""
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        """True once somebody has asked for an end."""
        return self._stop.is_set()

    def run(self, on_cell: Callable[[], object] | None = None) -> None:
        """Make all cells, calling `on_cell` after each.

        Raises:
            ValueError, OSError, ImportError: what the library says to a choice that cannot be run.
            Stopped: :meth:`stop` was called. What was made until then is in :attr:`cells`.
        """
        from diffusolve.denoisers.load import load_model

        choice = self.choice
        choice.check()
        self.recipes = recipes_of(choice.samplers, self.plans)
        loaded = load_model(
            choice.model,
            choice.num,
            prompt=choice.prompt or None,
            label=choice.label or None,
            guidance=choice.guidance,
            opened=_opened,
        )
        self.network = loaded.network
        seeds = list(range(choice.seed, choice.seed + choice.num))
        exact = ExactSolution(loaded.network, self._on_exact, EXACT_STEPS) if choice.error else None
        total = sum(1 if isinstance(recipe, Plan) else len(choice.steps) for recipe in self.recipes.values())
        finished = 0

        def on_step(place: Place, progress: Progress | None) -> None:
            self._go_on()
            of = "" if place.steps is None else f" of {place.steps}"
            self.place = f"{place.name}: step {place.done + 1}{of}"
            self.done = (finished + (place.done / place.steps if place.steps else 0.0)) / total

        for name, column, cell in cells_of(self.recipes, loaded, choice.steps, seeds, exact, on_step):
            # A new mapping, since another thread may be showing the one before.
            self.cells = {**self.cells, name: {**self.cells.get(name, {}), column: cell}}
            finished += 1
            self.done = finished / total
            self._go_on()
            if on_cell is not None:
                on_cell()

    def _on_exact(self, progress: Progress) -> None:
        self._go_on()
        self.place = f"exact solution: step {progress.step + 1} of {progress.steps}"

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped


@lru_cache(maxsize=2)
def _pipeline(path: str) -> Any:
    from diffusolve.denoisers.pipeline import open_pipeline

    return open_pipeline(path)


_OPENING = Lock()


def _opened(path: str) -> Any:
    """The pipeline at `path`, opened once however many ask for it."""
    with _OPENING:
        return _pipeline(path)


def plans_of(experiment: Experiment) -> Iterator[tuple[str, Plan]]:
    """The plans that were run, by what they are called; adaptive samplers have none."""
    for name, row in experiment.cells.items():
        recipe = experiment.recipes[name]
        for column, cell in row.items():
            if cell.steps is not None:
                yield f"{name}, {column} steps", plan_of(recipe, experiment.network, cell.steps)


def read_plan(path: str | Path) -> tuple[str, Plan]:
    """The plan in a file, and what it is called on the page.

    Raises:
        PlanFormatError: it holds no plan, and why.
        ValueError: it is no text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is no text: expected a plan as JSON, see diffusolve plan --json.") from None
    return f"{PLAN}{path.stem.replace(',', ' ')}", Plan.from_json(text)


def configuration_of(name: str) -> tuple[str, tuple[str, ...]]:
    """The configuration of diffusers for the sampler of that name as JSON text, and what is different about it.

    Raises:
        ValueError: a sampler that diffusers has no class for, or a plan.
    """
    if name.startswith(PLAN):
        raise ValueError("a plan has no configuration: diffusers' classes cannot say it.")
    world, of_world, kind = parts_of(name)
    if world == "diffusers":
        keys = SCHEDULE_TYPES[kind].config or {} if kind else {}
        return _as_json({"_class_name": of_world, **keys}), ()
    if world is None:
        there = to_diffusers(name)
        return _as_json(there.joined({})), there.differences
    entry, kind_there = entry_in_world(of_world, world)
    there = to_diffusers(entry if kind_there is None else f"{entry} {kind_there}")
    return _as_json(there.joined({})), differences_in_world(of_world, world, flow=False)


def _as_json(configuration: Mapping[str, Any]) -> str:
    return json.dumps(configuration, indent=2, sort_keys=True) + "\n"
