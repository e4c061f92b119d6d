"""The plan that a row is made by, and where its noise comes from."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusolve.bulk.models import Model
from diffusolve.bulk.rows import Row
from diffusolve.catalog import sampler as sampler_called
from diffusolve.noise import Grid
from diffusolve.plan import Plan, check_made_for
from diffusolve.randomness import NoiseLike
from diffusolve.sampling import Sampler, noise_between_steps

__all__ = ["Recipe", "Recipes"]

MOST_KEPT = 1024


@dataclass(frozen=True)
class Recipe:
    """The way to a row's sample: a plan; or for adaptive samplers, which have none, the sampler itself."""

    plan: Plan | None
    sampler: Sampler | None = None
    grid: Grid | None = None

    def noise(self, seed: int) -> NoiseLike:
        """The noise between the steps of a row with this seed."""
        if self.sampler is None or self.grid is None or self.plan is None or not self.plan.is_stochastic:
            return seed
        return noise_between_steps(self.sampler, self.grid, seed)


class Recipes:
    """The recipes of a job's rows, those used last kept.

    Args:
        model: which knows its noise schedule and prediction.
        plans: the text of plan files, by their paths.
    """

    def __init__(self, model: Model, plans: dict[str, str]) -> None:
        self.plans = plans
        self._model = model
        self._kept: OrderedDict[Any, Recipe] = OrderedDict()

    def of(self, row: Row) -> Recipe:
        """The recipe for `row`.

        Raises:
            ValueError: there is no such sampler or plan, it cannot take so many steps, or is for another model.
        """
        key = (row.sampler, row.world, row.steps)
        if key not in self._kept:
            self._kept[key] = self._from_file(row.sampler) if row.is_of_a_file else self._by_name(row)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _by_name(self, row: Row) -> Recipe:
        sampler = sampler_called(row.sampler, world=row.world)
        schedule = self._model.noise_schedule
        if sampler.solver.adaptive:
            if row.steps != Row.steps:
                raise ValueError(f"steps is {row.steps}: {row.sampler} chooses its own: leave steps out.")
            return Recipe(None, sampler, sampler.grid(schedule, 1))
        plan = sampler.plan(schedule, self._model.prediction, row.steps)
        return Recipe(plan, sampler, sampler.grid(schedule, row.steps) if plan.is_stochastic else None)

    def _from_file(self, path: str) -> Recipe:
        if path not in self.plans:
            try:
                self.plans[path] = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"the plan {path} cannot be read: {error}.") from None
        try:
            plan = Plan.from_json(self.plans[path])
        except ValueError as error:
            raise ValueError(f"{path} is no plan: {error}") from None
        try:
            check_made_for(plan, self._model.noise_schedule, self._model.prediction)
        except ValueError as error:
            raise ValueError(f"{path} is for another model: {error}") from None
        return Recipe(plan)
