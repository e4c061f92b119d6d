"""FlowMatchEulerDiscreteScheduler."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.flow_scheduler import FlowScheduler
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.words import TimeShiftType
from diffusolve.solvers import Solver, euler, lcm

__all__ = ["FlowMatchEulerDiscreteScheduler"]

SAME_SIGMA = 1e-6
"""A token that is nearer than this to a sigma of the run stands at it, and goes on to the next."""


class FlowMatchEulerDiscreteScheduler(FlowScheduler):
    """Euler's method for flow matching: Stable Diffusion 3, Flux, Qwen-Image, Wan, LTX-Video, Sana (A1111: "Euler").

    Esser et al. 2024, Scaling Rectified Flow Transformers for High-Resolution Image Synthesis.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves sigmas towards noise; 3 for Stable Diffusion 3.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the shift's logarithm ("exponential") or the
            shift itself ("linear").
        base_shift, max_shift, base_image_seq_len, max_image_seq_len: what pipelines compute `mu` from.
        invert_sigmas: time runs from noise to data.
        shift_terminal: stretch the sigmas to end at this one; 0.1 for LTX-Video.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        stochastic_sampling: each step leads to the data and back, with fresh noise.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        time_shift_type: TimeShiftType | None = "exponential",
        stochastic_sampling: bool = False,
    ) -> None:
        self._configured()

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = inf,
        s_noise: float = 1.0,
        generator: Any = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | Fields:
        """The sample one step on.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            s_churn, s_tmin, s_tmax, s_noise: without effect, as in diffusers.
            generator: where `stochastic_sampling` draws its noise from.
            per_token_timesteps: each token stands at a timestep of its own, shape (batch, tokens), and goes on to the
                run's next sigma below it; samples then have shape (batch, tokens, channels).
        """
        if per_token_timesteps is not None:
            previous = self._step_by_token(model_output, timestep, sample, per_token_timesteps, generator)
            return SchedulerOutput(previous) if return_dict else (previous,)
        previous, run = self._advance(model_output, timestep, sample, generator)
        if self.config["stochastic_sampling"]:
            self._draw_last(run, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lcm if self.config["stochastic_sampling"] else euler

    @property
    def _turns_round(self) -> bool:  # stochastic steps are not turned round in diffusers
        return not self.config["stochastic_sampling"]

    def _step_by_token(self, output: Tensor, timestep: Any, sample: Tensor, own: Tensor, generator: Any) -> Tensor:
        """The sample whose tokens stand at timesteps of their `own`, each one step on, in float32.

        The coefficients are tensors here, so that no plan has them.
        """
        generation, place = self._registry.of(timestep)
        assert generation is not None  # there is one from the constructor on
        index = generation.step_index
        if index is None:
            index = self._first(generation, place, timestep)
        sigma: Tensor = moved(own, sample.device) / len(self)
        rising = generation.timesteps_and_sigmas_on(sample.device)[1].sort().values
        below = torch.searchsorted(rising, (sigma - SAME_SIGMA).to(rising.dtype))  # how many are smaller
        following = torch.where(below > 0, rising[(below - 1).clamp(min=0)], 0.0)
        x, v = sample.float(), output.float()
        sigma, following = sigma.unsqueeze(-1), following.unsqueeze(-1)
        generation.step_index = index + 1
        if not self.config["stochastic_sampling"]:
            return x + (sigma - following) * v
        noise: Tensor = draw_normal_with(generator, x)
        return (1.0 - following) * (x - sigma * v) + following * noise
