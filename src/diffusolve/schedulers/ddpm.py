"""DDPMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.plan import Plan
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.one_step import OneStepScheduler, end_by_another_name, following_timestep, noise_as
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.words import PredictionType, TimestepSpacing, VarianceType
from diffusolve.solvers import Solver
from diffusolve.solvers.ancestral import split_noise
from diffusolve.solvers.ddpm import ddpm, forward_noise

__all__ = ["DDPMScheduler"]

VARIANCES = {
    "fixed_small": "posterior",
    "fixed_small_log": "posterior",
    "fixed_large": "forward",
    "fixed_large_log": "forward",
    "learned": "given",
    "learned_range": "given",
}
"""The name in diffusers -> the solver's. The logarithms make no difference."""

LEAST_VARIANCE = 1e-20


class DDPMScheduler(OneStepScheduler):
    """Denoising diffusion probabilistic models: ancestral sampling over the timesteps of a run, or over all.

    Ho et al. 2020, Denoising Diffusion Probabilistic Models; Nichol & Dhariwal 2021, Improved Denoising Diffusion
    Probabilistic Models (learned variances). Without `set_timesteps` a step leads to the timestep below.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        variance_type: of the noise in a step. "fixed_small" or "fixed_small_log": that of the posterior of the forward
            process; "fixed_large" or "fixed_large_log": that of the forward process's own step; "learned": the second
            half of the network's output channels; "learned_range": they say where between the two it is, on a
            logarithmic scale, from -1 to 1. With "trailing" timesteps the last step adds noise too, as in diffusers:
            visible with "fixed_large" and the learned ones.
        clip_sample, clip_sample_range: keep data predictions within plus and minus this.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction, instead
            of clipping.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        rescale_betas_zero_snr: leave no signal at the last timestep.
    """

    _end_configured = 1.0
    one = end_by_another_name
    only_read = frozenset({"variance_type"})

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"] = "linear",
        trained_betas: Sequence[float] | None = None,
        variance_type: VarianceType | None = "fixed_small",
        clip_sample: bool = True,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self.variance_type = variance_type
        self._configured()

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: Sequence[int] | None = None
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps` given, the largest first.

        Raises:
            ValueError: neither is given, or both; timesteps that are not whole training timesteps or do not decrease.
        """
        if num_inference_steps is not None and timesteps is not None:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}, and timesteps are given too: leave one of them out."
            )
        super().set_timesteps(num_inference_steps, device, timesteps)

    @declared_as(WithGenerator[int | Tensor, SchedulerOutputWithData].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, whatever was done before; noise is drawn from `generator` except at timestep 0.

        Args:
            model_output: shape (batch, channels, ...), with twice the channels of `sample` for a learned variance.
            timestep: a timestep of the run; any whole training timestep if there is none.
            sample: shape (batch, channels, ...).
        """
        noise = noise_as(model_output, sample)
        key, run = self._run_at(timestep, noise)
        whole = model_output
        model_output, deviation = self._split(model_output, sample, run.plan)
        if "_get_variance" in self._replaced:
            predicted = None if whole is model_output else whole[:, sample.shape[1] :]
            deviation = self._deviation_replaced(int(run.plan.start.timestep), predicted)
        with noise.drawn_from(generator, deviation=deviation):
            previous = self._stepped(key, run, model_output, sample)
        if run.plan.start.timestep > 0:
            self._draw_last(run, model_output, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    @property
    def custom_timesteps(self) -> bool:
        """True where the timesteps of the run were given."""
        generation = self._generation
        return generation is not None and generation.custom

    replaceable: ClassVar[frozenset[str]] = OneStepScheduler.replaceable | {"previous_timestep"}

    def previous_timestep(self, timestep: int | Tensor) -> Any:
        """The timestep that a step from `timestep` leads to, a tensor if `timestep` is one; -1 from the last one."""
        before = self._following(*self._asked(timestep))
        return torch.tensor(before, device=timestep.device) if isinstance(timestep, Tensor) else before

    def _get_variance(
        self, t: int | Tensor, predicted_variance: Tensor | None = None, variance_type: str | None = None
    ) -> Tensor:
        """The variance of the noise in the step from `t`, in the form that the variance type has.

        That is the standard deviation for "fixed_small_log", and the logarithm of the variance for "fixed_large_log"
        and "learned_range".

        Args:
            t: a timestep.
            predicted_variance: the network's, for the learned types.
            variance_type: in place of that of the configuration.
        """
        kind = variance_type or self.config["variance_type"] or "fixed_small"
        before = self.previous_timestep(t)
        power = self._signal[t]
        power_before = self._signal[before] if before >= 0 else self.one
        beta = 1 - power / power_before
        posterior = ((1 - power_before) / (1 - power) * beta).clamp(min=LEAST_VARIANCE)
        if kind.startswith("learned"):
            if predicted_variance is None:
                raise ValueError(f"variance_type is {kind!r}: give the network's predicted_variance.")
            if kind == "learned":
                return predicted_variance
            share = (predicted_variance + 1) / 2
            return share * torch.log(beta) + (1 - share) * torch.log(posterior)
        named = {"fixed_small_log": posterior.sqrt(), "fixed_large": beta, "fixed_large_log": torch.log(beta)}
        return named.get(kind, posterior)

    def _deviation_replaced(self, t: int, predicted: Tensor | None) -> Tensor:
        """The standard deviation of a step's noise by a subclass's own variance."""
        variance = torch.as_tensor(self._get_variance(t, predicted_variance=predicted))
        if self.config["variance_type"] == "fixed_small_log":
            return variance
        return torch.exp(0.5 * variance) if self.config["variance_type"] == "learned_range" else variance**0.5

    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        if "previous_timestep" in self._replaced:
            return int(self.previous_timestep(timestep))
        return self._following(generation, timestep, place)

    def _following(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        if generation is None or (generation.steps is None and not generation.custom):
            return timestep - 1
        return following_timestep(generation, timestep, place)

    def _solver(self, steps: int, **options: Any) -> Solver:
        variance = VARIANCES.get(self.config["variance_type"], "posterior")
        variance = "given" if "_get_variance" in self._replaced else variance
        return ddpm.with_options(variance=variance, noisy_end=True)

    def _split(self, model_output: Tensor, sample: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """The prediction in `model_output`, and the standard deviation that it asks for, element by element."""
        kind = self.config["variance_type"]
        learned = kind in ("learned", "learned_range")
        if not learned and model_output.shape == sample.shape:
            return model_output, None
        given, channels = model_output.shape[1], sample.shape[1]
        if given != (2 * channels if learned else channels):
            raise ValueError(
                f"variance_type is {kind!r}, for which the network outputs {'2 * ' if learned else ''}{channels} "
                f"channels{', a prediction and its variance' if learned else ''}; here it has {given}. "
                "A network that predicts a variance needs 'learned' or 'learned_range', others 'fixed_small'."
            )
        prediction, variance = model_output[:, :channels], model_output[:, channels:]
        if not learned:
            return prediction, None
        if kind == "learned":
            return prediction, variance.clamp(min=0.0).sqrt()
        s, t = self._point(int(plan.start.timestep)), self._point(int(plan.end.timestep))
        least, most = (0.5 * log(max(d**2, LEAST_VARIANCE)) for d in (split_noise(s, t, 1.0)[0], forward_noise(s, t)))
        return prediction, torch.exp((most - least) / 2 * variance + (most + least) / 2)
