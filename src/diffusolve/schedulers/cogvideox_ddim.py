"""CogVideoXDDIMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffusolve.backends import Transform
from diffusolve.config import register_to_config
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.one_step import OneStepScheduler, strided_timestep, variance_between
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.step_types import WithEta, declared_as
from diffusolve.schedulers.words import BetaSchedule, PredictionType, TimestepSpacing
from diffusolve.solvers import Solver, euler

__all__ = ["CogVideoXDDIMScheduler"]


class CogVideoXDDIMScheduler(OneStepScheduler):
    """DDIM on the noise schedule of CogVideoX and CogView, whose signal-to-noise ratio is divided by a number.

    Yang et al. 2024, CogVideoX; Song et al. 2021, Denoising Diffusion Implicit Models. Linear in the sample: nothing is
    clipped and no noise is added. Each step leads ``num_train_timesteps // num_inference_steps`` timesteps down.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the noise schedule before the shift.
        clip_sample, clip_sample_range, sample_max_value: kept for other classes; as in diffusers nothing is clipped.
        set_alpha_to_one: the last step leads to the data; if not, to the noise level of timestep 0.
        steps_offset: added to "leading" timesteps.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction" (CogVideoX).
        timestep_spacing: "linspace", "leading" or "trailing" (CogVideoX).
        rescale_betas_zero_snr: leave no signal at the last timestep (CogVideoX).
        snr_shift_scale: divides the signal-to-noise ratio; 3 for CogVideoX-2B, 1 for CogVideoX-5B.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.0120,
        beta_schedule: BetaSchedule = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: PredictionType = "epsilon",
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        rescale_betas_zero_snr: bool = False,
        snr_shift_scale: float = 3.0,
    ) -> None:
        self._configured()

    @declared_as(WithEta[int | Tensor, SchedulerOutputWithData].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, whatever was done before.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: any whole training timestep.
            eta, use_clipped_model_output, generator, variance_noise: pipelines offer them; as in diffusers no noise is
                added, whatever they are.
        """
        key, run = self._run_at(timestep, None)
        return self._result(self._stepped(key, run, model_output, sample), run, model_output, sample, return_dict)

    _get_variance = variance_between

    def _clipping(self) -> Transform | None:
        return None

    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        return strided_timestep(generation or self._current, timestep, place, len(self))

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler
