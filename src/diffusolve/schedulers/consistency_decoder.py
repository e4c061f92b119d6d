"""ConsistencyDecoderScheduler."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import NoiseSchedule, Scaling, TabulatedSignal
from diffusolve.noise.betas import betas
from diffusolve.prediction import EDM, Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver, lcm

__all__ = ["ConsistencyDecoderScheduler"]

TIMESTEPS = (1008, 512)
"""The timesteps of the two steps that the decoder was made for."""


class ConsistencyDecoderScheduler(Scheduler):
    """Internal to diffusers: the two steps of DALL-E 3's consistency decoder, which ConsistencyDecoderVAE walks.

    Song et al. 2023, Consistency Models, algorithm 1, on the cosine schedule and with EDM's preconditioning. Linear in
    the sample.

    Args:
        num_train_timesteps: the number of timesteps of the cosine schedule, more than 1008.
        sigma_data: standard deviation of the data.
    """

    _compatibles: ClassVar[list[str]] = []
    scaling: ClassVar[Scaling | None] = Scaling.VARIANCE_PRESERVING

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1024, sigma_data: float = 0.5) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The cosine schedule of Nichol & Dhariwal 2021, over whole timesteps."""
        return _cosine(len(self))

    @property
    def _prediction(self) -> Prediction:
        return EDM(self.config["sigma_data"])

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None) -> None:
        """Begin a run of two steps.

        Raises:
            ValueError: `num_inference_steps` is not 2, or there are not as many training timesteps.
        """
        if num_inference_steps != len(TIMESTEPS):
            raise ValueError(f"num_inference_steps is {num_inference_steps}: expected 2, the decoder's.")
        if len(self) <= TIMESTEPS[0]:
            raise ValueError(
                f"num_train_timesteps is {len(self)}: expected more than {TIMESTEPS[0]}, the first step's."
            )
        self._begin(asked_for(num_inference_steps), device)

    def _steps(self, asked: Asked) -> Steps:
        at = np.array(TIMESTEPS, np.float64)
        return Steps(at, np.append(self.noise_schedule.sigma(at), 0.0))

    @property
    def init_noise_sigma(self) -> Tensor:
        """The factor of the standard normal noise that sampling starts from."""
        first = min(TIMESTEPS[0], len(self) - 1)
        return torch.tensor(float(self.noise_schedule.alpha_sigma(first)[1]))

    scale_model_input = Scheduler._model_input

    @declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lcm


@lru_cache(maxsize=8)
def _cosine(count: int) -> TabulatedSignal:
    beta = np.asarray(betas("squaredcos_cap_v2", 0.0, 0.0, count), np.float64)
    return TabulatedSignal(tuple(np.cumprod(1.0 - beta).tolist()))
