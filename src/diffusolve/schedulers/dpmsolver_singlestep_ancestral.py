"""DPMSolverSinglestepAncestralScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.two_stage import TwoStageScheduler
from diffusolve.schedulers.words import BetaSchedule, PredictionTypeOrFlow, TimestepSpacing
from diffusolve.solvers import Solver, dpmpp_2s_ancestral

__all__ = ["DPMSolverSinglestepAncestralScheduler"]


class DPMSolverSinglestepAncestralScheduler(TwoStageScheduler):
    """DPM-Solver++(2S) with ancestral noise, in samples scaled to alpha = 1 (A1111: "DPM++ 2S a").

    The row "DPM++ 2S a" of the table of A1111's names in the documentation of diffusers, which has no class for it;
    with ``use_karras_sigmas=True`` "DPM++ 2S a Karras". Lu et al. 2022, DPM-Solver++, algorithm 1, to less noise than
    asked for; then fresh noise. k-diffusion's ``sample_dpmpp_2s_ancestral``.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        eta: how much noise is replaced in each step, from 0 (none, DPM-Solver++(2S)) to 1 (as Euler ancestral does).
        s_noise: multiplies that noise.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
        eta: float = 1.0,
        s_noise: float = 1.0,
    ) -> None:
        self._configured()

    @declared_as(WithGenerator[float | Tensor, SchedulerOutputWithData].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample to evaluate next: on the way of the step, then at its end with noise from `generator`."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return dpmpp_2s_ancestral.with_options(eta=self.config["eta"], s_noise=self.config["s_noise"])
