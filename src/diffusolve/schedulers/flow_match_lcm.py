"""FlowMatchLCMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.flow_scheduler import FlowScheduler
from diffusolve.schedulers.generation import Noise, Prepared
from diffusolve.schedulers.keys import KEYS
from diffusolve.schedulers.members import unreachable
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.words import TimeShiftType
from diffusolve.solvers import Solver, lcm

__all__ = ["FlowMatchLCMScheduler"]


class FlowMatchLCMScheduler(FlowScheduler):
    """Multistep consistency sampling for flow matching: jump to the data and add noise again (A1111: "LCM").

    Luo et al. 2023, Latent Consistency Models, algorithm 3, on the noise of Liu et al. 2022. With `scale_factors` the
    data grow on the way (Starodubcev et al. 2025, Scale-wise Distillation, arXiv 2503.16397). Linear in the sample,
    unless they do.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves sigmas towards noise.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the shift's logarithm ("exponential") or the
            shift itself ("linear").
        base_shift, max_shift, base_image_seq_len, max_image_seq_len: what pipelines compute `mu` from.
        invert_sigmas: what users see as sigma is one minus it. Steps are not turned round, as in diffusers.
        shift_terminal: stretch the sigmas to end at this one.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        scale_factors: the size of the data after each step but the last, in units of their first size.
        upscale_mode: how data are brought to that size, a mode of :func:`torch.nn.functional.interpolate`.
    """

    members = unreachable("it is the size of the sample that the first step was handed", "_init_size")

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        time_shift_type: TimeShiftType | None = "exponential",
        scale_factors: Sequence[float] | None = None,
        upscale_mode: Literal[
            "nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"
        ] = "bicubic",
    ) -> None:
        self.set_scale_factors(scale_factors, upscale_mode)
        self._configured()

    def set_scale_factors(self, scale_factors: Sequence[float] | None, upscale_mode: str) -> None:
        """Let the data of the runs that begin from now on have these sizes, see the constructor.

        Raises:
            UnknownNameError: no such mode.
            ValueError: a factor that is not positive.
        """
        KEYS["upscale_mode"].kept("upscale_mode", upscale_mode)
        KEYS["scale_factors"].kept("scale_factors", scale_factors)
        self._scale_factors = None if scale_factors is None else tuple(scale_factors)
        self._upscale_mode = upscale_mode

    @declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`.

        Raises:
            ValueError: not as many `scale_factors` as the run has steps but one.
        """
        if self._scale_factors:
            previous = self._step_to_size(model_output, timestep, sample, generator)
            return SchedulerOutput(previous) if return_dict else (previous,)
        previous, run = self._advance(model_output, timestep, sample, generator)
        if run.is_done:
            self._draw_last(run, sample.to(torch.promote_types(sample.dtype, torch.float32)), generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _noise(self, prepared: Prepared) -> Noise:
        return NoiseOfData()

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lcm

    @property
    def _turns_round(self) -> bool:  # steps are not turned round in diffusers
        return False

    def _step_to_size(self, output: Tensor, timestep: Any, sample: Tensor, generator: Any) -> Tensor:
        """The sample one step on, in the size that the data have from there: no plan's, whose samples keep theirs."""
        generation, place = self._registry.of(timestep)
        assert generation is not None  # there is one from the constructor on
        factors, steps = self._scale_factors or (), len(generation.values)
        if len(factors) != steps - 1:
            raise ValueError(
                f"{len(factors)} scale_factors are given for a run of {steps} steps: expected {steps - 1}, the size "
                "after each step but the last."
            )
        index = generation.step_index
        if index is None:
            index = self._first(generation, place, timestep)
        if index == 0:
            generation.first_size = tuple(sample.shape[2:])
        sigma, following = generation.prepared.sigmas[index : index + 2].tolist()
        data = sample.float() - sigma * output.float()
        if index < len(factors):
            size = [int(factors[index] * length) for length in generation.first_size]
            if 0 in size:
                raise ValueError(
                    f"scale_factors[{index}] is {factors[index]:g}: expected more, since it leaves nothing of a sample "
                    f"of {tuple(generation.first_size)}."
                )
            data = torch.nn.functional.interpolate(data, size=size, mode=self._upscale_mode)
        generation.step_index = index + 1
        noise: Tensor = draw_normal_with(generator, data)
        previous: Tensor = (1.0 - following) * data + following * noise
        return previous.to(output.dtype)


class NoiseOfData(Noise):
    """Noise in the precision of the data, which are computed in single or double precision."""

    def __init__(self) -> None:
        super().__init__(None)

    def __call__(self, like: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        self.dtype = torch.promote_types(like.dtype, torch.float32)
        return super().__call__(like, sigma_from, sigma_to)
