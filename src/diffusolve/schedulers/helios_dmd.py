"""HeliosDMDScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.pyramid_scheduler import PyramidScheduler
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.words import PredictionTypeOrFlow, TimeShiftType
from diffusolve.solvers import Solver, lcm

__all__ = ["HeliosDMDScheduler"]


class HeliosDMDScheduler(PyramidScheduler):
    """Jumps to the data and back in the stages of a pyramid of resolutions, for Helios distilled by DMD.

    Yin et al. 2024, Improved Distribution Matching Distillation, on Jin et al. 2024, Pyramidal Flow Matching. Linear in
    the sample; but the caller hands in the sigmas, timesteps and noise of a step, so that its coefficients are tensors,
    which no plan has.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves the whole's sigmas towards noise.
        stages, stage_range: how many stages there are, and the parts of the training timesteps where they begin and
            end, from 0 to 1.
        gamma: how strongly the noise of a stage is correlated where it begins.
        prediction_type: what the network predicts: "flow_prediction".
        use_flow_sigmas: without effect: they always are.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the shift itself ("linear") or its logarithm
            ("exponential").
    """

    drops_last: ClassVar[bool] = True
    changes_samples: ClassVar[str] = "its noise is handed in, with a size of the caller's"

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        stages: int = 3,
        stage_range: Sequence[float] = [0, 1 / 3, 2 / 3, 1],
        gamma: float = 1 / 3,
        prediction_type: PredictionTypeOrFlow = "flow_prediction",
        use_flow_sigmas: bool = True,
        use_dynamic_shifting: bool = False,
        time_shift_type: TimeShiftType | None = "linear",
    ) -> None:
        self._configured()

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor | None = None,
        sample: Tensor | None = None,
        generator: Any = None,
        return_dict: bool = True,
        cur_sampling_step: int = 0,
        dmd_noisy_tensor: Tensor | None = None,
        dmd_sigmas: Tensor | None = None,
        dmd_timesteps: Tensor | None = None,
        all_timesteps: Tensor | None = None,
    ) -> SchedulerOutput | Fields:
        """The data prediction with the noise of the next timestep added; the data themselves in the last step.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: where the sample stands; the nearest of `dmd_timesteps` counts.
            generator: without effect: the noise is handed in.
            return_dict: an object with fields, or a tuple.
            cur_sampling_step: the place of the step among `all_timesteps`.
            dmd_noisy_tensor: the noise, shape (batch, ...).
            dmd_sigmas, dmd_timesteps: of the stage, shape (steps + 1,) and (steps,); the run's when missing.
            all_timesteps: those that are stepped through; the run's when missing.

        Raises:
            ValueError: `timestep` or `sample` is missing, or `dmd_noisy_tensor` before the last step.
        """
        if timestep is None or sample is None:
            raise ValueError("timestep or sample is missing: expected where the sample stands, and the sample.")
        timesteps = self.timesteps if dmd_timesteps is None else dmd_timesteps
        sigmas = self.sigmas if dmd_sigmas is None else dmd_sigmas
        walked = self.timesteps if all_timesteps is None else all_timesteps
        following = self.convert_flow_pred_to_x0(model_output, sample, timestep, sigmas, timesteps)
        if cur_sampling_step < len(walked) - 1:
            if dmd_noisy_tensor is None:
                raise ValueError("dmd_noisy_tensor is missing: expected the noise to add, of the sample's shape.")
            following = self.add_noise(following, dmd_noisy_tensor, walked[cur_sampling_step + 1], sigmas, timesteps)
        generation = self._current
        generation.step_index = (generation.step_index or 0) + 1
        return SchedulerOutput(following) if return_dict else (following,)

    def convert_flow_pred_to_x0(
        self, flow_pred: Tensor, xt: Tensor, timestep: float | Tensor, sigmas: Tensor, timesteps: Tensor
    ) -> Tensor:
        """``xt - sigma * flow_pred``, where sigma stands in `sigmas` at the place of the nearest of `timesteps`."""
        sigma = _sigma_at(timestep, sigmas, timesteps, xt)
        return (xt.double() - sigma * flow_pred.double()).to(flow_pred.dtype)

    def add_noise(  # type: ignore[override]  # as in diffusers
        self,
        original_samples: Tensor,
        noise: Tensor,
        timestep: float | Tensor,
        sigmas: Tensor | None = None,
        timesteps: Tensor | None = None,
    ) -> Tensor:
        """``(1 - sigma) * original_samples + sigma * noise``, sigma as in :meth:`convert_flow_pred_to_x0`.

        Args:
            original_samples, noise: shape (batch, ...).
            timestep: shape (), (1,) or (batch,).
            sigmas, timesteps: the run's when missing.
        """
        own = self.timesteps if timesteps is None else timesteps
        sigma = _sigma_at(timestep, self.sigmas if sigmas is None else sigmas, own, original_samples)
        return ((1 - sigma) * original_samples + sigma * noise).to(noise.dtype)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lcm


def _sigma_at(timestep: float | Tensor, sigmas: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """The sigma at the nearest of `timesteps`, in double precision, shape (1 or batch, 1, ...)."""
    given = moved(torch.as_tensor(timestep), like.device).double().reshape(-1, 1)
    nearest = (moved(timesteps, like.device).double() - given).abs().argmin(dim=1)
    sigma: Tensor = moved(sigmas, like.device).double()[nearest]
    return sigma.reshape(-1, *[1] * (like.ndim - 1))
