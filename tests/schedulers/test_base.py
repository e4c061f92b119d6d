"""What the base of the scheduler classes carries: classes with and without betas, any steps, what a step is handed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.config import register_to_config
from diffusolve.noise import Grid, NoiseSchedule, Scaling, VarianceExploding
from diffusolve.prediction import EDM, Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.euler_discrete import EulerDiscreteScheduler
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.outputs import SchedulerOutputWithDenoised, StepResult
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Evaluate, Noise, Solver, SolverRun, Value, euler, solver
from diffusolve.spacing import Karras

from .parity import PROMISED, STABLE_DIFFUSION, difference, diffusers, ours

TAKES_SIGMAS = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepAncestralScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)


def random(seed: int) -> Tensor:
    return torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


class EDMEuler(Scheduler):
    """Euler's method for EDM's preconditioned networks, without betas."""

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_EXPLODING
    timestep_dtype: ClassVar[type] = np.float32
    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon",)
    output = SchedulerOutputWithDenoised
    scale_model_input = Scheduler._model_input

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
    ) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return VarianceExploding(self.config["sigma_min"], self.config["sigma_max"], "edm", len(self))

    @property
    def _prediction(self) -> Prediction:
        return EDM(self.config["sigma_data"])

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None) -> None:
        self._begin(asked_for(num_inference_steps), device)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> StepResult:
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def _steps(self, asked: Asked) -> Steps:
        grid = Karras().grid(self.noise_schedule, asked.steps)
        return Steps(grid.timesteps.astype(np.float64), grid.sigmas)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler


def test_a_class_without_betas_is_a_mapping() -> None:
    mine, reference = EDMEuler(), diffusers.EDMEulerScheduler()
    x = y = 80.0 * random(0)
    for scheduler in (mine, reference):
        scheduler.set_timesteps(6)
    assert difference(mine.timesteps, reference.timesteps) < 1e-6
    for t, other in zip(mine.timesteps, reference.timesteps, strict=True):
        seen, theirs = mine.scale_model_input(x, t), reference.scale_model_input(y, other)
        assert difference(seen, theirs) < PROMISED
        out = mine.step(torch.sin(seen), t, x)
        assert not isinstance(out, tuple)
        expected = reference.step(torch.sin(theirs), other, y)
        assert difference(out["denoised"], expected.pred_original_sample) < PROMISED
        x, y = out.prev_sample, expected.prev_sample
        assert difference(x, y) < PROMISED
    with pytest.raises(ValueError, match="call set_timesteps"):
        EDMEuler().add_noise(x, x, mine.timesteps[:1])


class Inversion(EulerDiscreteScheduler):
    """From data to noise: the sigmas of another run, the smallest first."""

    def _steps(self, asked: Asked) -> Steps:
        steps = super()._steps(asked)
        return Steps(steps.timesteps[::-1][1:], steps.sigmas[:-1][::-1])


def test_sigma_may_rise_along_a_run() -> None:
    there, back = Inversion(**STABLE_DIFFUSION), EulerDiscreteScheduler(**STABLE_DIFFUSION)
    output, start = random(1), random(0)
    there.set_timesteps(8)
    x = start
    for t in there.timesteps:
        x = there.step(output, t, x).prev_sample
    sigmas = there.sigmas
    assert bool((sigmas.diff() > 0).all())
    assert difference(x, start + (sigmas[-1] - sigmas[0]) * output) < 1e-5
    back.set_timesteps(sigmas=sigmas.flip(0))
    for t in back.timesteps:
        x = back.step(output, t, x).prev_sample
    assert difference(x, start) < 1e-5


@solver(paper="a line through this data prediction and one that the caller kept")
def with_older_data(grid: Grid, x: Value) -> SolverRun:
    """Each step takes the mean of its data prediction and what it is handed as noise from its end to its start."""
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        older = yield Noise(t, s)
        x = (t.sigma / s.sigma) * x + (1.0 - t.sigma / s.sigma) * (0.5 * data + 0.5 * older)
    return x


class HandedBack(EulerDiscreteScheduler):
    """Keeps nothing: the caller hands the last data prediction back."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, older: Tensor) -> Any:  # type: ignore[override]
        generation = self._generation_of(timestep)
        grid, index = generation.prepared.grid, generation.step_index or 0
        interval = grid[index + 1].sigma, grid[index].sigma
        with generation.noise.drawn_from(None, handed={interval: older}):
            previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, True)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return with_older_data


def test_a_solver_may_use_what_the_caller_hands_back() -> None:
    scheduler = HandedBack(**STABLE_DIFFUSION)
    scheduler.set_timesteps(4)
    x, output, older = random(0), random(1), random(2)
    for t, s, following in zip(scheduler.timesteps, scheduler.sigmas, scheduler.sigmas[1:], strict=False):
        out = scheduler.step(output, t, x, older)
        data = x - s * output
        expected = x * following / s + (1 - following / s) * (0.5 * data + 0.5 * older)
        assert difference(out.prev_sample, expected) < 1e-5
        assert difference(out.pred_original_sample, data) < 1e-5
        x, older = out.prev_sample, out.pred_original_sample


def test_every_class_that_knows_sigmas_takes_them() -> None:
    wrong, sigmas = [], [9.0, 4.0, 1.0, 0.2]
    for name in TAKES_SIGMAS:
        for ending in ([], [0.0]):
            if name == "EulerDiscreteScheduler" and not ending:
                continue  # its last sigma is where the run ends, as in diffusers
            scheduler = ours(name, STABLE_DIFFUSION)
            scheduler.set_timesteps(sigmas=[*sigmas, *ending])
            points = [p for p in scheduler.grid if p.sigma > 0][: len(sigmas)]
            if scheduler.num_inference_steps != 4 or not np.allclose([p.sigma / p.alpha for p in points], sigmas):
                wrong.append(f"{name}: {scheduler.num_inference_steps} steps at {points}")
    assert not wrong, "\n".join(wrong)


def test_what_is_prepared_is_remembered_by_every_argument() -> None:
    scheduler = ours("UniPCMultistepScheduler", {"use_flow_sigmas": True, "use_dynamic_shifting": True})
    calls: list[dict[str, Any]] = [
        {"num_inference_steps": 3, "mu": 0.5},
        {"num_inference_steps": 3, "mu": 1.0},
        {"num_inference_steps": 4, "mu": 1.0},
        {"sigmas": [0.9, 0.5, 0.2], "mu": 1.0},
    ]
    seen = []
    for call in (*calls, *calls):
        scheduler.set_timesteps(**call)
        seen.append(scheduler._current.prepared)
    assert len({id(prepared) for prepared in seen}) == len(calls)
    assert seen[: len(calls)] == seen[len(calls) :]


def test_a_step_notices_once_that_something_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[Generation] = []
    original = Scheduler._follow

    def follow(self: Scheduler, generation: Generation) -> None:
        followed.append(generation)
        original(self, generation)

    monkeypatch.setattr(Scheduler, "_follow", follow)
    scheduler, x = ours("EulerDiscreteScheduler", STABLE_DIFFUSION), random(0)
    scheduler.set_timesteps(4)
    scheduler.step(x, scheduler.timesteps[0], x)
    assert not followed
    scheduler.register_to_config(steps_offset=1)
    for t in scheduler.timesteps[1:3]:
        scheduler.step(x, t, x)
    assert followed == [scheduler._current]
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.clone()
    scheduler.step(x, scheduler.timesteps[3], x)
    assert len(followed) == 2


def test_ddim_follows_given_timesteps() -> None:
    """With timesteps in equal strides they are those of its own run."""
    own, given = (diffusolve.DDIMScheduler(**STABLE_DIFFUSION) for _ in range(2))
    own.set_timesteps(5)
    given.set_timesteps(timesteps=own.timesteps.tolist())
    x = y = random(0)
    for t in own.timesteps[:-1]:
        x, y = own.step(torch.sin(x), t, x).prev_sample, given.step(torch.sin(y), t, y).prev_sample
        assert torch.equal(x, y)
    uneven = diffusolve.DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False)
    uneven.set_timesteps(timesteps=[900, 300, 10])
    output = random(1)
    alpha = uneven.alphas_cumprod.double()[[900, 300]].sqrt().tolist()
    sigma = (1 - uneven.alphas_cumprod.double()[[900, 300]]).sqrt().tolist()
    expected = alpha[1] * (x - sigma[0] * output) / alpha[0] + sigma[1] * output
    assert difference(uneven.step(output, uneven.timesteps[0], x).prev_sample, expected) < 1e-5
