"""CogVideoXDPMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from diffusolve.backends import Transform
from diffusolve.config import register_to_config
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.as_in_diffusers import dpmpp_2m_sde_by_step
from diffusolve.schedulers.generation import Generation, Noise
from diffusolve.schedulers.one_step import OneStepScheduler, strided_timestep, variance_between
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.words import BetaSchedule, PredictionType, TimestepSpacing
from diffusolve.solvers import Solver

__all__ = ["CogVideoXDPMScheduler"]


class CogVideoXDPMScheduler(OneStepScheduler):
    """DPM-Solver++(2M) SDE on the noise schedule of CogVideoX, the prediction before being handed back by the caller.

    Yang et al. 2024, CogVideoX; Lu et al. 2022, DPM-Solver++ (A1111: "DPM++ 2M SDE"). Linear in the sample: a step is
    the plan of one stage, in which the data prediction that the step before returned is a term like the noise. Each
    step leads ``num_train_timesteps // num_inference_steps`` timesteps down.

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

    fixed: ClassVar[frozenset[str]] = OneStepScheduler.fixed | {"get_mult", "get_variables"}

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

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        old_pred_original_sample: Tensor | None,
        timestep: int | Tensor,
        timestep_back: int | Tensor | None,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = False,
    ) -> SchedulerOutputWithData | Fields:
        """(sample one step on, data prediction), the second of which is to be handed to the next step.

        Args:
            model_output, sample: shape (batch, ...).
            old_pred_original_sample: the data prediction of the step before; None in the first step, which is of first
                order.
            timestep: any whole training timestep.
            timestep_back: the timestep of the step before; with `old_pred_original_sample` only.
            eta, use_clipped_model_output, variance_noise: pipelines offer them; as in diffusers they change nothing.
            generator: of the noise. As in diffusers a step of second order draws twice from it, and uses the second.
            return_dict: an object with fields; as in diffusers a tuple all the same for a step of first order.

        Raises:
            ValueError: the step before is given in part only.
        """
        if (old_pred_original_sample is None) is not (timestep_back is None):
            given, missing = "old_pred_original_sample", "timestep_back"
            given, missing = (given, missing) if timestep_back is None else (missing, given)
            raise ValueError(f"{given} is given without {missing}: give both, or neither in the first step.")
        noise, handed, before = Noise(sample.dtype), {}, None
        if old_pred_original_sample is not None and self.previous_timestep(timestep) >= 0:
            before = self._point(self._asked(timestep_back)[1]).log_snr
            here = self._point(self._asked(timestep)[1]).sigma
            handed = {(here, here): old_pred_original_sample}
            draw_normal_with(generator, sample)
        key, run = self._run_at(timestep, noise, before=before)
        with noise.drawn_from(generator, handed=handed):
            previous = self._stepped(key, run, model_output, sample)
        self._draw_last(run, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict and before is not None)

    def previous_timestep(self, timestep: int | Tensor) -> int:
        """The timestep that a step from `timestep` leads to; below 0: to the end."""
        return self._previous(*self._asked(timestep))

    _get_variance = variance_between

    def _clipping(self) -> Transform | None:
        return None

    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        return strided_timestep(generation or self._current, timestep, place, len(self))

    def _solver(self, steps: int, **options: Any) -> Solver:
        return dpmpp_2m_sde_by_step.with_options(**options)
