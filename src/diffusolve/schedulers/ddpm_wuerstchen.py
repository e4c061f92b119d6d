"""DDPMWuerstchenScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import NoiseSchedule
from diffusolve.noise.cosine import ClampedCosine
from diffusolve.prediction import Prediction, prediction
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.as_in_diffusers import ddpm_to_data
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.given import timesteps_on
from diffusolve.schedulers.members import unreachable
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver

__all__ = ["DDPMWuerstchenScheduler"]


class DDPMWuerstchenScheduler(Scheduler):
    """DDPM over ratios, timesteps from 1 to 0 in continuous time, of which the last is where the last step ends.

    Pernias et al. 2023, Wuerstchen (and Stable Cascade); Nichol & Dhariwal 2021, Improved Denoising Diffusion
    Probabilistic Models. Linear in the sample. Networks predict the noise.

    Args:
        scaler: bends the ratios, by ``t ** scaler``, or ``1 - (1 - t) ** scaler`` above 1.
        s: offset of the cosine schedule.
    """

    _compatibles = []  # noqa: RUF012
    timestep_dtype = np.float32
    init_noise_sigma: float = 1.0

    fixed: ClassVar[frozenset[str]] = Scheduler.fixed | {"_alpha_cumprod"}
    members = unreachable("noise_schedule has alpha and sigma at any ratio", "_init_alpha_cumprod")
    only_read = frozenset({"s", "scaler"})

    @register_to_config
    def __init__(self, scaler: float = 1.0, s: float = 0.008) -> None:
        self._schedule = ClampedCosine(offset=float(s), power=float(scaler))
        self.scaler = scaler
        self.s = torch.tensor([s])
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes."""
        return self._schedule

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        device: Any = None,
    ) -> None:
        """Begin a run of `num_inference_steps` equal steps from ratio 1 to 0, or over the ratios given.

        Args:
            num_inference_steps: the number of steps, one less than there are ratios.
            timesteps: ratios from 1 to 0, strictly decreasing, shape (steps + 1,).
            device: for the ratios.

        Raises:
            ValueError: neither is given; ratios that do not fall or of which there are fewer than two.
        """
        if timesteps is None:
            if num_inference_steps is None or num_inference_steps < 1:
                raise ValueError(f"num_inference_steps is {num_inference_steps}: expected at least 1, or timesteps.")
            chosen = np.linspace(1.0, 0.0, num_inference_steps + 1)
        else:
            chosen = np.asarray(timesteps, np.float64)
            if len(chosen) < 2 or not np.all(np.diff(chosen) < 0) or not 0.0 <= chosen[-1] <= chosen[0] <= 1.0:
                raise ValueError(f"timesteps are {chosen.tolist()}: expected two or more from 1 to 0, decreasing.")
        self._begin(Asked(len(chosen) - 1, tuple(chosen.tolist())), device)

    @declared_as(WithGenerator[Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample at the ratio that comes next, with noise from `generator` unless that is 0.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``, the same for all samples; shape () or (batch,).
            generator: of the noise.
        """
        at = timestep.reshape(-1)[0] if isinstance(timestep, Tensor) else timestep
        previous, run = self._advance(model_output, at, sample, generator)
        if not run.last_stage.update.noises:  # the last, or between two ratios of the same, least signal
            draw_normal_with(generator, model_output)
        return self._result(previous, run, model_output, sample, return_dict)

    def previous_timestep(self, timestep: Tensor) -> Tensor:
        """The ratio after that nearest to the first of `timestep`, in the shape of it."""
        own = self.timesteps
        nearest = (own - timestep.reshape(-1)[0].to(own.device)).abs().argmin()
        return own[nearest + 1][None].expand(timestep.shape[0])

    @property
    def timesteps(self) -> Tensor:
        """The ratios of the run, and that where it ends; an AttributeError before `set_timesteps`."""
        if self._generation is None:
            raise AttributeError("DDPMWuerstchenScheduler has no timesteps yet: call set_timesteps first.")
        return super().timesteps

    def __len__(self) -> int:
        return self._schedule.num_train_timesteps

    @property
    def _prediction(self) -> Prediction:
        return prediction("epsilon")

    def _steps(self, asked: Asked) -> Steps:
        ratios = np.array(asked.timesteps)
        return Steps(ratios, self._schedule.sigma(ratios))

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        t = timesteps_on(timesteps, like).to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
        schedule = self._schedule
        t = 1 - (1 - t) ** schedule.power if schedule.power > 1 else t**schedule.power
        offset = schedule.offset
        angle = (t + offset) / (1 + offset) * torch.pi / 2
        start = np.cos(offset / (1 + offset) * np.pi / 2)
        power = ((torch.cos(angle) / start) ** 2).clamp(schedule.least, schedule.most)
        return power**0.5, (1 - power) ** 0.5

    def _solver(self, steps: int, **options: Any) -> Solver:
        return ddpm_to_data
