"""FlowMapEulerDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.noise import FlowMatching, NoiseSchedule, shifted
from diffusolve.prediction import Flow, Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.given import timesteps_on
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver, euler

__all__ = ["FlowMapEulerDiscreteScheduler"]


class FlowMapEulerDiscreteScheduler(Scheduler):
    """Steps of any length along a flow map, for networks that are told both ends of a step.

    Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507): the output is the mean velocity from one time to the other,
    so that a step is exact however long it is. Steps of a run are linear in the sample and a plan's; one to a time of
    the caller's has that time as a coefficient, perhaps one for each sample, which no plan has.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves sigmas towards noise.
    """

    _compatibles: ClassVar[list[str]] = []
    timestep_dtype: ClassVar[type] = np.float64
    init_noise_sigma: float = 1.0
    precision = "output"

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, shift: float = 1.0) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching with as many training timesteps as configured. The shift is in the sigmas of a run."""
        return FlowMatching(num_train_timesteps=len(self))

    @property
    def _prediction(self) -> Prediction:
        return Flow()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `sigmas`, or over the `timesteps`.

        Args:
            num_inference_steps: how many steps; may be left out where sigmas or timesteps are given.
            device: for the timesteps.
            sigmas: where the steps begin before they are shifted, from 1 down, shape (steps,), possibly with a last 0.
            timesteps: the same as sigmas times `num_train_timesteps`; of no effect beside `sigmas`.

        Raises:
            ValueError: none of them is given, or numbers of steps that differ; sigmas outside flow matching's range.
        """
        asked = asked_for(num_inference_steps, timesteps, sigmas)
        if asked.sigmas is None and asked.timesteps is not None:
            asked = asked._replace(sigmas=tuple(t / len(self) for t in asked.timesteps))
        if asked.sigmas is not None and not 0.0 < asked.sigmas[-1] <= asked.sigmas[0] <= 1.0:
            raise ValueError(f"sigmas are {list(asked.sigmas)}: expected numbers from 1 down to above 0.")
        self._begin(asked._replace(timesteps=None), device)

    def _steps(self, asked: Asked) -> Steps:
        plain = np.linspace(1.0, 0.0, asked.steps + 1)[:-1] if asked.sigmas is None else np.array(asked.sigmas)
        sigmas = shifted(plain, self.config["shift"])
        return Steps(sigmas * len(self), np.append(sigmas, 0.0))

    def _prepared_over(self, steps: Steps) -> Prepared:
        prepared = super()._prepared_over(steps)
        prepared.sigmas = steps.sigmas  # in double precision
        return prepared

    def _standing(self) -> Prepared:
        return self._prepare(Asked(len(self)))

    @property
    def num_inference_steps(self) -> int:
        """The number of steps of the run; of training timesteps before `set_timesteps`."""
        return len(self._current.values)

    @property
    def sigmas(self) -> Tensor:
        """The sigmas of the run's steps and of its end; all training sigmas before `set_timesteps`."""
        return self._current.sigmas_for_users()

    def apply_shift(self, sigmas: Any) -> Any:
        """The `sigmas`, an array or tensor, moved towards noise as configured."""
        shift = self.config["shift"]
        return shift * sigmas / (1 + (shift - 1) * sigmas)

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sample as the network takes it: the sample itself."""
        return sample

    def scale_noise(self, sample: Tensor, timestep: float | Tensor, noise: Tensor | None = None) -> Tensor:
        """``(1 - sigma) * sample + sigma * noise``, where sigma is `timestep` divided by `num_train_timesteps`.

        Args:
            sample, noise: shape (batch, ...).
            timestep: any, of the run or not, shape (batch,), (1,) or ().

        Raises:
            ValueError: `noise` is missing.
        """
        if noise is None:
            raise ValueError("noise is missing: expected a tensor of the sample's shape.")
        return self.add_noise(sample, noise, torch.as_tensor(timestep))

    def _sigma_at(self, like: Tensor, timesteps: Tensor) -> Tensor:
        sigma: Tensor = timesteps_on(timesteps, like).to(like.dtype) / len(self)
        return sigma.reshape(-1, *[1] * (like.ndim - 1))

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        r_timestep: float | Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | Fields:
        """The sample at the next timestep of the run, or at `r_timestep`.

        Args:
            model_output: the mean velocity from `timestep` to where the step leads, shape (batch, ...).
            timestep: one of ``scheduler.timesteps``; with `r_timestep` any, shape () or (batch,).
            sample: shape (batch, ...).
            r_timestep: where the step leads, shape () or (batch,).
            return_dict: an object with fields, or a tuple.

        Raises:
            ValueError: `timestep` is not one of the run's, and `r_timestep` is missing.
        """
        if r_timestep is None:
            previous, run = self._advance(model_output, timestep, sample)
            return self._result(previous, run, model_output, sample, return_dict)
        length = _as_double(timestep, sample) - _as_double(r_timestep, sample)
        previous = (sample - length / len(self) * model_output).to(model_output.dtype)
        generation = self._generation_of(timestep)
        generation.step_index = (generation.step_index or 0) + 1
        return SchedulerOutput(previous) if return_dict else (previous,)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler


def _as_double(timestep: float | Tensor, sample: Tensor) -> Tensor:
    given: Tensor = moved(torch.as_tensor(timestep), sample.device).double()
    return given.reshape(-1, *[1] * (sample.ndim - 1))
