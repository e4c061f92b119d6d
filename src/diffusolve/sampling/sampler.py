"""The recipe: a solver and a spacing, ready for any noise schedule and any prediction type."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from diffusolve.drawing import html_table, level_panels, notebook
from diffusolve.errors import shown
from diffusolve.noise import Grid, NoiseSchedule, Scaling
from diffusolve.noise import noise_schedule as schedule_called
from diffusolve.plan import Plan, check_plannable, plan_for
from diffusolve.prediction import Prediction, PredictionOrName, prediction
from diffusolve.solvers import Solver
from diffusolve.spacing import Linspace, Spacing

__all__ = ["Sampler"]

UNIFORM = Linspace()

SHOWN_ON, SHOWN_STEPS = "sd15", 20
"""The noise schedule and the number of steps that notebooks show a sampler in."""


@dataclass(frozen=True, repr=False)
class Sampler:
    """A sampler as people speak of it: a solver on a spacing. An immutable value.

    Args:
        solver: the algorithm with its options.
        spacing: where the steps fall; equally spaced timesteps when missing.
        scaling: how the sample is scaled. When missing: as the noise schedule has it, but for solvers that integrate
            dx/dsigma (``solver.integrates_dx_dsigma``), whose samples on a variance preserving schedule are scaled to
            alpha = 1, or to alpha + sigma = 1 where the grid starts at alpha = 0 (sigma / alpha is infinite there).
        name: what people call it.
        seed_offset: added to the seeds of the noise between steps, not to those of the noise to start from (A1111's
            "eta noise seed delta").
        brownian: the noise between steps follows a Brownian path, so that more steps make a finer version of the same
            sample. Needs torchsde.

    Raises:
        TypeError: a solver or a spacing that is none.
    """

    solver: Solver
    spacing: Spacing = UNIFORM
    scaling: Scaling | None = None
    name: str = ""
    seed_offset: int = 0
    brownian: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Solver):
            raise TypeError(
                f"solver is {shown(self.solver)}: expected a Solver, which diffusolve.solvers.solver makes of a "
                "generator function; diffusolve.sampler(name) finds one by its name."
            )
        if not isinstance(self.spacing, Spacing):
            raise TypeError(
                f"spacing is {shown(self.spacing)}: expected one of diffusolve.spacing, for example Karras(). Names of "
                "schedule types are for diffusolve.sampler(name, spacing)."
            )

    def grid(self, noise_schedule: str | NoiseSchedule, steps: int | None = None) -> Grid:
        """The points of `steps` steps over `noise_schedule`, or the one of that name.

        Raises:
            UnknownNameError: no noise schedule has that name.
            ValueError: the spacing cannot make so many steps.
        """
        return _grid(self, schedule_called(noise_schedule), steps)

    def plan(
        self, noise_schedule: str | NoiseSchedule, prediction_type: PredictionOrName, steps: int | None = None
    ) -> Plan:
        """The table of coefficients of `steps` steps, from a cache if it was made before.

        Args:
            noise_schedule: the schedule that the network was trained with, or its name, for example ``"sdxl"``.
            prediction_type: what the network predicts: epsilon, sample, v_prediction, flow or edm, or a
                :class:`~diffusolve.prediction.Prediction`.
            steps: how many steps, if the spacing does not say; a step may evaluate the network more than once.

        Raises:
            ValueError: a number of steps or a spacing that the schedule cannot have; a coefficient that is infinite.
            NotPlannableError: an adaptive solver; use :func:`diffusolve.sample`.
        """
        return _plan(self, schedule_called(noise_schedule), prediction(prediction_type), steps)

    def _repr_html_(self) -> str:
        options = {**self.solver.defaults, **dict(self.solver.options)}
        rows = [("solver", self.solver.name), ("source", self.solver.paper), ("spacing", str(self.spacing))]
        rows += [(name, repr(value)) for name, value in options.items()]
        table = html_table(("", ""), rows, str(self), text=2)
        try:
            grid = self.grid(SHOWN_ON, 1 if self.solver.adaptive else SHOWN_STEPS)
        except ValueError:  # a spacing of its own number of steps, or for other noise schedules
            return notebook(table)
        panels = level_panels(list(enumerate(grid)))
        return notebook(table, panels, f"{grid.steps} steps on {SHOWN_ON}")

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"<Sampler {name}{self.solver} on {self.spacing}>"

    def __str__(self) -> str:
        return self.name or f"{self.solver} on {self.spacing}"


@lru_cache(maxsize=1024)
def _grid(sampler: Sampler, noise_schedule: NoiseSchedule, steps: int | None) -> Grid:
    grid = sampler.spacing.grid(noise_schedule, steps)
    if sampler.scaling is not None:
        return grid.in_scaling(sampler.scaling)
    if sampler.solver.integrates_dx_dsigma and not grid.scaling.is_linear_in_sigma:
        return grid.in_scaling(Scaling.VARIANCE_EXPLODING if grid[0].alpha > 0 else Scaling.FLOW)
    return grid


@lru_cache(maxsize=1024)
def _plan(sampler: Sampler, noise_schedule: NoiseSchedule, prediction_type: Prediction, steps: int | None) -> Plan:
    check_plannable(sampler.solver)  # before a grid that an adaptive solver has no use for
    return plan_for(sampler.solver, _grid(sampler, noise_schedule, steps), prediction_type)
