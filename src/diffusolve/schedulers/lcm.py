"""LCMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.plan import Stage
from diffusolve.schedulers.consistency import DistilledScheduler
from diffusolve.schedulers.given import number_of
from diffusolve.schedulers.members import Member, Members
from diffusolve.schedulers.outputs import SchedulerOutputWithDenoised, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.words import BetaSchedule, PredictionType, TimestepSpacing
from diffusolve.solvers import Solver, lcm
from diffusolve.solvers.lcm import SIGMA_DATA, boundary_scalings

__all__ = ["LCMScheduler"]


class LCMScheduler(DistilledScheduler):
    """Multistep sampling of latent consistency models: jump to the data and add noise again (A1111: "LCM").

    Luo et al. 2023, Latent Consistency Models, algorithm 3. Linear in the sample, unless data predictions are clipped.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        original_inference_steps: the number of timesteps that the network was distilled on.
        clip_sample, clip_sample_range: keep data predictions within plus and minus this.
        set_alpha_to_one: kept for other classes: the last step always leads to the data.
        steps_offset, timestep_spacing: kept for other classes: the timesteps are those of the distillation.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction.
        timestep_scaling: multiplies timesteps in the boundary condition of the consistency function.
        rescale_betas_zero_snr: leave no signal at the last timestep.
    """

    output = SchedulerOutputWithDenoised

    ends_by_number = True
    fixed: ClassVar[frozenset[str]] = DistilledScheduler.fixed | {"get_scalings_for_boundary_condition_discrete"}
    members: ClassVar[Members] = {"sigma_data": Member(lambda _: SIGMA_DATA)}

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        original_inference_steps: int = 50,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        timestep_scaling: float = 10.0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self._configured()

    @property
    def _end_power(self) -> float:
        return 1.0

    @declared_as(WithGenerator[int | Tensor, SchedulerOutputWithDenoised].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`, and the data that it was made of as `denoised`."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        stage, transform = run.last_stage, self._transform
        c_skip, c_out = self.get_scalings_for_boundary_condition_discrete(stage.point.timestep)

        def denoised(data: Tensor, _: Stage) -> Tensor:
            return c_skip * sample + c_out * (data if transform is None else transform(data, stage))

        return self._result(previous, run, model_output, sample, return_dict, transform=denoised)

    def get_scalings_for_boundary_condition_discrete(self, timestep: float) -> tuple[float, float]:
        """(c_skip, c_out): what sample and data prediction are multiplied by in the consistency function."""
        return boundary_scalings(number_of(timestep), self.config["timestep_scaling"])

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lcm.with_options(timestep_scaling=float(self.config["timestep_scaling"]))
