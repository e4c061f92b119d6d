"""Noise levels of a model of ComfyUI, read off the answers of its ``model_sampling``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from diffusolve.noise import FlowMatching, NoiseSchedule, Scaling, TabulatedSignal, VarianceExploding

Array = npt.NDArray[np.float64]

SAME = 1e-4
"""Relative; tables of sigmas are in single precision."""


def is_flow(model_sampling: Any) -> bool:
    """True if samples are ``(1 - sigma) * x0 + sigma * noise``, False if they are ``x0 + sigma * noise``."""
    data, half = torch.ones(1), torch.full((1,), 0.5)
    return float(model_sampling.noise_scaling(half, torch.zeros(1), data)) == 0.5


def noise_schedule_of(model_sampling: Any) -> NoiseSchedule:
    """The noise schedule that a model was trained with.

    Raises:
        ValueError: its sigmas are of no kind that diffusolve has.
    """
    sigmas = table_of(model_sampling)
    count, middle = len(sigmas), len(sigmas) // 2
    schedule = trained_on(model_sampling)
    if not is_flow(model_sampling):
        if float(model_sampling.timestep(model_sampling.sigmas[middle])) == middle:
            return schedule
        schedule = VarianceExploding(float(sigmas[0]), float(sigmas[-1]), "edm", count)
    if not np.allclose(schedule.sigma_at_index(np.arange(count)), sigmas, rtol=SAME, atol=0):
        raise ValueError(
            f"the sigmas of this model ({type(model_sampling).__name__}) are neither a table for whole timesteps, nor "
            "flow matching's with a shift, nor equally spaced in log sigma as EDM's are: take SIGMAS from one of "
            "ComfyUI's own scheduler nodes; the samplers work on any."
        )
    return schedule


def trained_on(model_sampling: Any) -> NoiseSchedule:
    """A schedule with a model's sigma at each training index."""
    sigmas = table_of(model_sampling)
    if not is_flow(model_sampling):
        return TabulatedSignal(tuple((1 / (1 + sigmas**2)).tolist()))
    index = len(sigmas) // 2
    time, sigma = index / len(sigmas), float(sigmas[index - 1])
    return FlowMatching(sigma * (1 - time) / (time * (1 - sigma)), len(sigmas))


def table_of(model_sampling: Any) -> Array:
    """A model's sigma at each training index, rising."""
    sigmas: Array = model_sampling.sigmas.detach().cpu().double().numpy()
    return sigmas


def any_sigma(model_sampling: Any) -> AnySigma:
    """Every noise level that a model can be asked at."""
    kind = AnyFlowSigma if is_flow(model_sampling) else AnySigma
    return kind(trained_on(model_sampling))


@dataclass(frozen=True)
class AnySigma(NoiseSchedule):
    """Samples ``x0 + sigma * noise`` with any sigma, which is its own timestep: ComfyUI's models are asked so.

    Args:
        trained: has the model's sigma at each training index, for solvers that count in training time.
    """

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_EXPLODING

    trained: NoiseSchedule

    @property
    def num_train_timesteps(self) -> int:  # type: ignore[override]  # a variable in the base
        return self.trained.num_train_timesteps

    def sigma(self, timestep: npt.ArrayLike) -> Array:
        return np.asarray(timestep, np.float64)

    def timestep(self, sigma: npt.ArrayLike) -> Array:
        return np.asarray(sigma, np.float64)

    def sigma_at_index(self, index: npt.ArrayLike) -> Array:
        return self.trained.sigma_at_index(index)

    @property
    def sigma_max(self) -> float:
        return np.inf


class AnyFlowSigma(AnySigma):
    """Samples ``(1 - sigma) * x0 + sigma * noise`` with any sigma up to 1, which is its own timestep."""

    scaling: ClassVar[Scaling] = Scaling.FLOW

    @property
    def sigma_max(self) -> float:
        return 1.0
