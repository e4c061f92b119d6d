"""The loops that are timed, with a network that costs nothing: its output is a tensor made beforehand."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import diffusolve
from benchmarks.suite.timing import Loop
from diffusolve.backends import Run
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.prediction import prediction

__all__ = [
    "BETAS",
    "FreeNetwork",
    "Shape",
    "configured",
    "fixed_noise",
    "flow_loop",
    "function_loop",
    "label",
    "noise_and_output",
    "run_loop",
    "sample_loop",
    "scheduler_loop",
    "without_drawing",
]

Shape = tuple[int, ...]

BETAS: Mapping[str, Any] = MappingProxyType(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
)
"""The noise schedule of every scheduler here that has one, that of Stable Diffusion, as its configuration says it."""

SIGMA_MIN, SIGMA_MAX = 0.0292, 14.6
"""And its least and greatest sigma / alpha."""


def configured(kind: Any, **config: Any) -> Any:
    """A scheduler of the class `kind` for the noise schedule that all have here, and `config`."""
    taken = inspect.signature(kind.__init__).parameters
    return kind(**{key: value for key, value in BETAS.items() if key in taken}, **config)


def label(shape: Shape, dtype: torch.dtype) -> str:
    """What a table's column is called."""
    return f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"


def noise_and_output(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sample to start from and the network's output, always the same."""
    generator = torch.Generator().manual_seed(0)
    x, output = torch.empty(2, *shape).normal_(generator=generator).to(dtype).unbind()
    return x, output


class FreeNetwork:
    """Says the same of everything, and counts how often it was asked."""

    noise_schedule = SD15
    prediction = prediction("epsilon")

    def __init__(self, output: Tensor) -> None:
        self.output = output
        self.asked = 0

    def __call__(self, x: Tensor, timestep: Tensor, **others: Any) -> Tensor:
        self.asked += 1
        return self.output

    def guided_and_unguided(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """For samplers that take guidance as two outputs."""
        self.asked += 1
        return self.output, self.output


def scheduler_loop(scheduler: Any, x: Tensor, output: Tensor, steps: int) -> Loop:
    """Seconds of an evaluation in the loop of a pipeline with `scheduler`, ours or diffusers', without set-up."""

    def loop() -> float:
        scheduler.set_timesteps(steps)
        sample, timesteps = x, scheduler.timesteps
        begun = time.perf_counter()
        for timestep in timesteps:
            scheduler.scale_model_input(sample, timestep)
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        return (time.perf_counter() - begun) / len(timesteps)

    return loop


def flow_loop(scheduler: Any, x: Tensor, output: Tensor, steps: int) -> Loop:
    """The same in the loop of a flow model's pipeline, which shows the network the sample as it is."""

    def loop() -> float:
        scheduler.set_timesteps(steps)
        sample, timesteps = x, scheduler.timesteps
        begun = time.perf_counter()
        for timestep in timesteps:
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        return (time.perf_counter() - begun) / len(timesteps)

    return loop


def run_loop(plan: Plan, x: Tensor, output: Tensor) -> Loop:
    """Seconds of an evaluation in a loop over the run of a deterministic plan."""

    def loop() -> float:
        run = Run(plan)
        begun = time.perf_counter()
        sample = run.begin(x)
        for _ in range(plan.nfe):
            run.model_input(sample)
            sample = run.step(output, sample)
        return (time.perf_counter() - begun) / plan.nfe

    return loop


def sample_loop(recipe: Any, x: Tensor, output: Tensor, steps: int | None) -> Loop:
    """Seconds of an evaluation in ``diffusolve.sample``, all of it; the noise is a tensor made beforehand.

    Args:
        recipe: a plan, or an adaptive sampler.
        x: where it begins.
        output: of the network.
        steps: None with a plan.
    """
    noise = fixed_noise(tuple(x.shape), torch.float32)

    def loop() -> float:
        network = FreeNetwork(output)
        begun = time.perf_counter()
        diffusolve.sample(network, x, recipe, steps=steps, noise=lambda like, sigma_from, sigma_to: noise)
        return (time.perf_counter() - begun) / network.asked

    return loop


def function_loop(function: Callable[..., Any], x: Tensor, output: Tensor, steps: int) -> Loop:
    """Seconds of an evaluation in one of k-diffusion's functions, all of it, ours or theirs, over Karras' levels."""
    from diffusolve.k_diffusion import get_sigmas_karras

    noisy = x * SIGMA_MAX
    arguments: tuple[Any, ...] = (get_sigmas_karras(steps, SIGMA_MIN, SIGMA_MAX),)
    if function.__name__ == "sample_dpm_fast":
        arguments = (SIGMA_MIN, SIGMA_MAX, steps)
    elif function.__name__ == "sample_dpm_adaptive":
        arguments = (SIGMA_MIN, SIGMA_MAX)

    def loop() -> float:
        network = FreeNetwork(output)
        begun = time.perf_counter()
        function(network, noisy, *arguments, disable=True)
        return (time.perf_counter() - begun) / network.asked

    return loop


@lru_cache(maxsize=8)
def fixed_noise(shape: Shape, dtype: torch.dtype) -> Tensor:
    """The noise of those who draw none."""
    return noise_and_output(shape, dtype)[0].clone()


class _FixedPath:
    """In place of torchsde's ``BrownianTree`` and ``BrownianInterval``: all increments are the same."""

    def __init__(self, *positions: Any, size: Any = None, dtype: torch.dtype | None = None, **others: Any) -> None:
        like = next(
            (given for given in (*positions, *others.values()) if isinstance(given, Tensor) and given.ndim), None
        )
        shape, kind = (size, dtype or torch.float32) if like is None else (like.shape, like.dtype)
        self.increment = fixed_noise(tuple(shape), kind)

    def __call__(self, *times: Any, **others: Any) -> Tensor:
        return self.increment


@contextmanager
def without_drawing() -> Iterator[None]:
    """Within, nobody draws noise: PyTorch and torchsde give tensors made beforehand, the same to all libraries."""

    def randn(*size: Any, dtype: torch.dtype | None = None, **others: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        return fixed_noise(shape, dtype or torch.get_default_dtype())

    def randn_like(like: Tensor, **others: Any) -> Tensor:
        return fixed_noise(tuple(like.shape), like.dtype)

    with patch("torch.randn", randn), patch("torch.randn_like", randn_like):
        if find_spec("torchsde") is None:
            yield
            return
        import torchsde  # type: ignore[import-untyped]

        with patch.multiple(torchsde, BrownianTree=_FixedPath, BrownianInterval=_FixedPath):
            yield
