"""What the schedulers have in common that ask the network twice in each step but the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.plan import Plan
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.sigma_space import SigmaScheduler
from diffusolve.schedulers.spacing import Levels, ramp_asked_for

__all__ = ["TwoStageScheduler"]


class TwoStageScheduler(SigmaScheduler):
    """`timesteps` has one entry per evaluation, two a step; the last step, to sigma = 0, has one.

    A run in the middle begins where a step does: at an even index, as ``timesteps[t_start * scheduler.order :]``.
    """

    order: ClassVar[int] = 2

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation begins a step."""
        generation = self._generation
        run = None if generation is None else generation.run
        return run is None or run.is_done or run.stage.stage == 0

    @property
    def timesteps(self) -> Tensor:
        """What the network is conditioned on, one per evaluation; all training timesteps before `set_timesteps`."""
        begun = self._runs.current
        return torch.tensor(self._longest.timesteps) if begun is None else begun.timesteps

    @property
    def sigmas(self) -> Tensor:
        """The noise levels that the evaluations lead to and begin from, as many as `timesteps` and the end."""
        generation = self._generation
        return torch.tensor(self._longest.sigmas) if generation is None else generation.sigmas

    @property
    def _longest(self) -> Prepared:
        return self._prepared(len(self), tuple(range(len(self) - 1, -1, -1)), None)

    def _set_spaced_timesteps(
        self,
        num_inference_steps: int | None,
        device: Any,
        num_train_timesteps: int | None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Begin a run over the `timesteps` given, or of steps spaced over the first `num_train_timesteps` or all."""
        if timesteps is not None:
            curve = ramp_asked_for(self._own_config)
            if curve is not None:
                raise ValueError(f"timesteps are given, but {curve}=True says where the steps fall: leave one out.")
        elif num_inference_steps is not None and num_train_timesteps is not None:
            timesteps = self._spaced(num_inference_steps, num_train_timesteps).tolist()
            num_inference_steps = None
        self._set_timesteps(num_inference_steps, device, timesteps)

    def _timesteps(self, levels: Levels, prepared: Prepared) -> Sequence[float] | np.ndarray[Any, Any]:
        return prepared.plan.timesteps

    def _sigmas(self, levels: Levels, prepared: Prepared) -> np.ndarray[Any, Any]:
        inner = np.repeat(levels.sigmas[1:-1], 2)
        return np.concatenate([levels.sigmas[:1], inner, levels.sigmas[-1:]])

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        if index % 2:
            raise ValueError(
                f"evaluation {index} is in the middle of a step, where a run cannot begin: begin at {index - 1} or "
                f"{index + 1}, for example with timesteps[t_start * {self.order}:]."
            )
        return super()._plan_from(generation, index, options)


class KDPM2Scheduler(TwoStageScheduler):
    """The second evaluation of a step is in its middle. `sigmas` ends in two more zeros, as in diffusers."""

    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction")
    timestep_dtype: ClassVar[type] = np.float64

    def _prepare(self, steps: int, timesteps: tuple[float, ...] | None, sigmas: tuple[float, ...] | None) -> Prepared:
        prepared = super()._prepare(steps, timesteps, sigmas)
        if ramp_asked_for(self._own_config) is None:
            prepared.timesteps = prepared.timesteps.astype(np.float32)
        return prepared

    def _levels(self, steps: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> Levels:
        levels = self._sigma_levels(steps, timesteps, sigmas)
        return levels._replace(timesteps=np.rint(levels.timesteps)) if self.config["use_karras_sigmas"] else levels

    def _sigmas(self, levels: Levels, prepared: Prepared) -> np.ndarray[Any, Any]:
        return np.append(super()._sigmas(levels, prepared), (0.0, 0.0))
