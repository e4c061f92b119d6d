"""DDIMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.as_in_diffusers import ddim_with_deviation
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.one_step import OneStepScheduler, noise_as, strided_timestep, variance_between
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.step_types import WithEta, declared_as
from diffusolve.schedulers.words import BetaSchedule, PredictionType, TimestepSpacing
from diffusolve.solvers import Solver, euler

__all__ = ["DDIMScheduler"]


class DDIMScheduler(OneStepScheduler):
    """Denoising diffusion implicit models (A1111: "DDIM").

    Song et al. 2021, Denoising Diffusion Implicit Models. Each step leads ``num_train_timesteps //
    num_inference_steps`` timesteps down, even where `timestep_spacing` has the next timestep elsewhere: "linspace", and
    the others if that is no whole number, are therefore slightly off, as in diffusers.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        clip_sample, clip_sample_range: keep data predictions within plus and minus this.
        set_alpha_to_one: the last step leads to the data; if not, to the noise level of timestep 0.
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction, instead
            of clipping.
        timestep_spacing: "linspace", "leading" or "trailing".
        rescale_betas_zero_snr: leave no signal at the last timestep.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        rescale_betas_zero_snr: bool = False,
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
            eta: how much of the noise is fresh, 0 to 1 (1 is DDPM).
            use_clipped_model_output: where data predictions are clipped, take the noise that is left from the clipped
                data; without, from the network's output, which then no longer agrees with the data.
            generator, variance_noise: where the noise comes from; at most one of them.
        """
        if self._edition is not self._followed_edition:
            self._follow(None)
        raw = self._transform is not None and not use_clipped_model_output
        if eta == 0:
            key, run = self._run_at(timestep, None, eta=0.0, unclipped_noise=raw)
            previous = self._stepped(key, run, model_output, sample)
            return self._result(previous, run, model_output, sample, return_dict)
        if generator is not None and variance_noise is not None:
            raise ValueError("both generator and variance_noise are given: give one of them.")
        if "_get_variance" in self._replaced:
            options: dict[str, Any] = {"deviation": self._deviation_replaced(timestep, eta)}
        else:
            options = {"eta": float(eta)}
        noise = noise_as(model_output, sample)
        key, run = self._run_at(timestep, noise, **options, unclipped_noise=raw)
        with noise.drawn_from(generator, variance_noise):
            previous = self._stepped(key, run, model_output, sample)
        if variance_noise is None:
            self._draw_last(run, model_output, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _get_variance(self, timestep: int | Tensor, prev_timestep: int | Tensor) -> Tensor:
        return variance_between(self, timestep, prev_timestep)

    def _deviation_replaced(self, timestep: int | Tensor, eta: float) -> float:
        """The standard deviation of a step's noise by a subclass's own variance.

        Raises:
            ValueError: there is not as much noise where the step leads.
        """
        generation, at, place = self._asked(timestep)
        before = self._previous(generation, at, place)
        deviation: float = eta * float(self._get_variance(at, before)) ** 0.5
        most = self._point(before).sigma
        if deviation > most:
            raise ValueError(
                f"_get_variance makes a standard deviation of {deviation:g} for the step from {at} to {before}, where "
                f"there is noise of {most:g} only: return at most the square of that"
                + (", or set set_alpha_to_one=False." if most == 0.0 else ".")
            )
        return deviation

    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        return strided_timestep(generation or self._current, timestep, place, len(self))

    def _solver(self, steps: int, **options: Any) -> Solver:
        return (ddim_with_deviation if "deviation" in options else euler).with_options(**options)
