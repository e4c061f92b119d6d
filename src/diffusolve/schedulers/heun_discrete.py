"""HeunDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.two_stage import TwoStageScheduler
from diffusolve.schedulers.words import PredictionTypeOrFlow, TimestepSpacing
from diffusolve.solvers import Solver, heun

__all__ = ["HeunDiscreteScheduler"]


class HeunDiscreteScheduler(TwoStageScheduler):
    """Heun's method for the probability-flow ODE, in samples scaled to alpha = 1 (A1111: "Heun").

    Karras et al. 2022, algorithm 1.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        clip_sample, clip_sample_range: keep the data prediction between plus and minus the range.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        clip_sample: bool | None = False,
        clip_sample_range: float = 1.0,
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
    ) -> None:
        self._configured()

    @declared_as(Plain[float | Tensor, SchedulerOutputWithData].step)
    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The sample to evaluate next: at the end of the step by Euler's method, then by Heun's."""
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return heun

    def _evaluated(self, prepared: Prepared) -> np.ndarray[Any, Any]:
        return np.append(prepared.timesteps[:1], np.repeat(prepared.timesteps[1:], 2))
