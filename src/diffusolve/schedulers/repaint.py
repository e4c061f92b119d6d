"""RePaintScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusolve.backends import Clip, Transform
from diffusolve.config import register_to_config
from diffusolve.noise import Grid
from diffusolve.prediction import Prediction, prediction
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Generation, Noise
from diffusolve.schedulers.one_step import OneStepScheduler, variance_between
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.solvers import Solver, euler

__all__ = ["RePaintScheduler"]


class RePaintScheduler(OneStepScheduler):
    """Inpainting with a model that knows nothing of it: what is known is put back at every step, with its noise.

    Lugmayr et al. 2022, RePaint, algorithm 1. A step is one of DDIM, linear in the sample unless data predictions are
    clipped; the mask, which is data, then mixes it with the known picture, so that no plan holds the whole of a run.
    Timesteps rise too, where a run jumps back: :meth:`undo_step` adds the noise for that.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        eta: how much of the noise is fresh, 0 to 1. Pipelines set the attribute of this name.
        clip_sample: keep data predictions within plus and minus 1.
    """

    _compatibles = []  # noqa: RUF012
    _end_configured = 1.0
    replaceable: ClassVar[frozenset[str]] = OneStepScheduler.replaceable - {"_get_variance"}
    fixed: ClassVar[frozenset[str]] = OneStepScheduler.fixed | {"_get_variance"}

    changes_samples: ClassVar[str] = "the known part of the picture is put into it, with the same noise"

    only_read = frozenset({"betas"})

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear",
        eta: float = 0.0,
        trained_betas: Sequence[float] | None = None,
        clip_sample: bool = True,
    ) -> None:
        self.eta = eta
        self.one = torch.tensor(1.0)
        self._configured()

    def set_timesteps(  # type: ignore[override]  # jumps take the place of timesteps
        self, num_inference_steps: int, jump_length: int = 10, jump_n_sample: int = 10, device: Any = None
    ) -> None:
        """Begin a run over `num_inference_steps` timesteps, parts of which are walked several times.

        Args:
            num_inference_steps: how many different timesteps; more than training has are taken for as many.
            jump_length: how many steps back a jump goes (the paper's j).
            jump_n_sample: how often a part is walked (the paper's r).
            device: for the timesteps.

        Raises:
            ValueError: a number below 1.
        """
        for name, number in (("jump_length", jump_length), ("jump_n_sample", jump_n_sample)):
            if number < 1:
                raise ValueError(f"{name} is {number}: expected at least 1.")
        steps = min(asked_for(num_inference_steps).steps, len(self))
        stride = len(self) // steps
        walked = tuple(float(stride * place) for place in _resampled(steps, jump_length, jump_n_sample))
        self._begin(Asked(steps, walked), device)

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        original_image: Tensor,
        mask: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutputWithData | Fields:
        """The sample one step on, known where the mask is 1; and the data prediction.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: any whole training timestep.
            original_image: the known picture, shape (batch, ...).
            mask: 1 where the picture is known and 0 where it is to be painted; in between both are mixed. Of a shape
                that broadcasts to (batch, ...).
            generator: of the noise, the same for the known part and the unknown.
        """
        fresh = draw_normal_with(generator, model_output)
        key, run = self._run_at(
            timestep,
            Noise(None).drawn_from(None, fresh),
            eta=float(self.eta),
            unclipped_noise=self._clips,
        )
        unknown = self._stepped(key, run, model_output, sample)
        end = run.plan.end
        known = end.alpha * original_image + end.sigma * fresh
        return self._result(mask * known + (1.0 - mask) * unknown, run, model_output, sample, return_dict)

    def undo_step(self, sample: Tensor, timestep: int | Tensor, generator: Any = None) -> Tensor:
        """The `sample` at a timestep of the run, with the noise that leads it one step back up.

        Args:
            sample: shape (batch, ...).
            timestep: where the sample stands, a whole training timestep.
            generator: of the noise, which is drawn once for each training timestep.
        """
        generation, at, _ = self._asked(timestep)
        stride = self._stride(generation)
        if at + stride > len(self):
            raise ValueError(f"timestep is {at}: expected at most {len(self) - stride}, a step below the last.")
        for beta in self.betas[at : at + stride].tolist():
            sample = (1 - beta) ** 0.5 * sample + beta**0.5 * draw_normal_with(generator, sample)
        return sample

    @property
    def _prediction(self) -> Prediction:
        return prediction("epsilon")

    def _clipping(self) -> Transform | None:
        return Clip(1.0) if self.config["clip_sample"] else None

    def _run_grid(self, asked: Asked) -> Grid:
        raise ValueError(
            "a run of RePaintScheduler has no plan: its timesteps rise and fall, and its steps depend on a mask."
        )

    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        return timestep - self._stride(generation)

    def _get_variance(self, t: int | Tensor) -> Tensor:
        """The variance of the noise in a step of the run from timestep `t` with ``eta=1``."""
        return variance_between(self, t, t - self._stride(None))

    def _stride(self, generation: Generation | None) -> int:
        """The number of training timesteps that a step of the run leads down, or a jump of one step up."""
        steps = (generation or self._current).steps
        assert steps is not None  # it was begun by set_timesteps
        return len(self) // steps

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler.with_options(**options)


def _resampled(steps: int, jump_length: int, jump_n_sample: int) -> list[int]:
    """The places among `steps` timesteps, counted from the cleanest, in the order in which RePaint walks them.

    Whenever a multiple of `jump_length` is reached, the walk goes back up by so much, ``jump_n_sample - 1`` times for
    each of them, where there is room for it.
    """
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), jump_n_sample - 1)
    place, walked = steps, []
    while place > 0:
        place -= 1
        walked.append(place)
        if left.get(place, 0) > 0:
            left[place] -= 1
            walked += range(place + 1, place + jump_length + 1)
            place += jump_length
    return walked
