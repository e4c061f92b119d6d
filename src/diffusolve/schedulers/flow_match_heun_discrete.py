"""FlowMatchHeunDiscreteScheduler."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.flow_as_in_diffusers import flow_heun_with_late_churn
from diffusolve.schedulers.flow_scheduler import FlowScheduler
from diffusolve.schedulers.generation import Generation, Prepared
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithChurn, declared_as
from diffusolve.schedulers.steps import Array, Steps
from diffusolve.schedulers.two_stage import TwoEvaluations, of_evaluations
from diffusolve.solvers import Solver, heun

__all__ = ["FlowMatchHeunDiscreteScheduler"]


class FlowMatchHeunDiscreteScheduler(TwoEvaluations, FlowScheduler):
    """Heun's method for flow matching (A1111: "Heun").

    Karras et al. 2022, algorithm 1; Esser et al. 2024. `timesteps` has one entry per evaluation, two a step; the last
    step, to sigma = 0, has one. Linear in the sample.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves sigmas towards noise; 3 for Stable Diffusion 3.
    """

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, shift: float = 1.0) -> None:
        self._configured()

    @declared_as(WithChurn[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = inf,
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample to evaluate next: at the end of the step by Euler's method, then by Heun's.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            s_churn, s_tmin, s_tmax, s_noise: noise added to the sample first, which raises sigma as if alpha were 1,
                as in diffusers. That is no step of flow matching.
            generator: where that noise comes from.
        """
        generation = self._generation_of(timestep)
        if generation.steps is None:
            self._none_begun()
        options: tuple[tuple[str, Any], ...] = ()
        if s_churn:
            given = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
            options = (*given.items(), ("evaluations", len(generation.values)))
        previous, run = self._advance(model_output, timestep, sample, generator, options)
        sigma = run.plan.stages[max(run.position - 2, 0)].point.sigma
        if s_churn and run.last_stage.stage == 1 and s_tmin <= sigma <= s_tmax:
            draw_normal_with(generator, sample)  # diffusers draws it for the second evaluation too, without effect
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return flow_heun_with_late_churn.with_options(**options) if options else heun

    def _steps_of_shown(self, generation: Generation, timesteps: Array, sigmas: Array, shown: Array | None) -> Steps:
        return of_evaluations(timesteps, sigmas, shown, len(generation.values))

    def _prepared_over(self, steps: Steps) -> Prepared:
        prepared = super()._prepared_over(steps)
        prepared.timesteps = twice(prepared.timesteps)
        prepared.sigmas = np.append(twice(prepared.sigmas[:-1]), prepared.sigmas[-1:])
        return prepared


def twice(of_steps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An entry per evaluation, of an entry per step: the end of each step is where the next one begins."""
    return np.append(of_steps[:1], np.repeat(of_steps[1:], 2))
