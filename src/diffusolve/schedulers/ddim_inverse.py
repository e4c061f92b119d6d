"""DDIMInverseScheduler."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.config.rules import OneOf
from diffusolve.noise import Grid, Point
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.one_step import OneStepScheduler, end_by_another_name
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.steps import Array
from diffusolve.schedulers.words import BetaSchedule, PredictionType, TimestepSpacing
from diffusolve.solvers import Solver, euler

__all__ = ["DDIMInverseScheduler"]

INVERTIBLE = OneOf(("leading", "trailing"))
"""The spacings that there is an inverse of. Configurations of other classes may have another one until a run begins."""

NEARLY_DATA = 2.0**-26
"""Stands for sigma = 0 where a step begins with the data, of which it is to tell the noise apart."""


class DDIMInverseScheduler(OneStepScheduler):
    """DDIM from data to noise, whose samples DDIM leads back to the data.

    Song et al. 2021, Denoising Diffusion Implicit Models, section 4.3 (inversion). Timesteps and sigmas rise. A step
    ends where the network is asked, and begins ``num_train_timesteps // num_inference_steps`` timesteps below. Linear
    in the sample, unless data predictions are clipped.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        clip_sample, clip_sample_range: keep data predictions within plus and minus this.
        set_alpha_to_one: the first step begins with the data; if not, at the noise level of timestep 0.
        steps_offset: added to the timesteps; 1 for Stable Diffusion.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction". A prediction of the data
            says nothing of the noise where there is none: such a network needs ``set_alpha_to_one=False``.
        timestep_spacing: "leading" or "trailing".
        rescale_betas_zero_snr: leave no signal at the last timestep.
        thresholding, dynamic_thresholding_ratio, sample_max_value: kept for calls that give options of DDIMScheduler:
            without effect, which a warning says, and no part of the configuration.
    """

    _compatibles = []  # noqa: RUF012
    ignore_for_config = ["thresholding", "dynamic_thresholding_ratio", "sample_max_value"]  # noqa: RUF012

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
        clip_sample_range: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        rescale_betas_zero_snr: bool = False,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
    ) -> None:
        if thresholding:
            warnings.warn(
                "thresholding has no effect on DDIMInverseScheduler: clip_sample and clip_sample_range keep its data "
                "predictions in range.",
                stacklevel=3,
            )
        self._configured()

    initial_alpha_cumprod = end_by_another_name

    def set_timesteps(  # type: ignore[override]  # nothing else can be chosen
        self, num_inference_steps: int, device: Any = None
    ) -> None:
        """Begin a run of `num_inference_steps` steps, the least noisy timestep first."""
        self._begin(asked_for(num_inference_steps), device)

    @declared_as(Plain[int | Tensor, SchedulerOutputWithData].step)
    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The sample one step further from the data, whatever was done before.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: where the step leads, any whole training timestep.
        """
        key, run = self._run_at(timestep, None, unclipped_noise=self._clips)
        return self._result(self._stepped(key, run, model_output, sample), run, model_output, sample, return_dict)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps of the run, rising; all training timesteps before `set_timesteps`."""
        own = super().timesteps
        return own.flip(0) if self._generation is None else own

    def _chosen(self, asked: Asked) -> Array:
        INVERTIBLE.kept("timestep_spacing", self.config["timestep_spacing"])
        return super()._chosen(asked)[::-1]

    def _run_grid(self, asked: Asked) -> Grid:
        ends = self._chosen(asked).astype(int).tolist()
        begins = [self._ends(end, end - len(self) // len(ends))[0] for end in ends]
        return Grid((*begins, self._point(ends[-1])), self.noise_schedule, self.scaling)

    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        generation = generation or self._current
        return timestep - len(self) // (generation.steps or len(generation.values))

    def _ends(self, timestep: int, other: int) -> tuple[Point, Point]:
        s = self._point(other)
        if s.sigma == 0 and self._prediction.name == "sample":
            raise ValueError(
                'prediction_type is "sample", which says nothing of the noise where the first step begins, the data: '
                "set set_alpha_to_one=False."
            )
        return Point(timestep, s.alpha, s.sigma or NEARLY_DATA), self._point(timestep)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler.with_options(**options)
