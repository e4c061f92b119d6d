"""The base of schedulers for networks that were distilled on a few timesteps (LCM, TCD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.backends import Run
from diffusolve.schedulers.asked import asked_for
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.given import number_of
from diffusolve.schedulers.scheduler import index_of
from diffusolve.schedulers.timestep_scheduler import TimestepScheduler, check_timesteps
from diffusolve.spacing.by_timestep import Distilled

__all__ = ["DistilledScheduler"]


class DistilledScheduler(TimestepScheduler):
    """Timesteps are some of those that the network was distilled on; each step depends on its own and the next."""

    _compatibles = []  # noqa: RUF012

    counts_on: ClassVar[bool] = True
    ends_by_number: ClassVar[bool] = False
    """diffusers tells the last step by the number of steps that were asked for, and draws noise at all others."""

    reads_timesteps: ClassVar[bool] = True

    def _started(self, generation: Generation, place: int | None, timestep: Any, options: Options) -> Run:
        """As for others; the timestep of a step that is counted must be that of its place."""
        index = generation.step_index
        if place is None and index is not None and not generation.is_done and self._is_elsewhere(generation, timestep):
            following = generation.values[index]
            raise ValueError(
                f"timestep is {float(timestep):g}, but the run comes to {following:g} next: hand step views of "
                "scheduler.timesteps, which tell it where to go, or call set_timesteps."
            )
        return super()._started(generation, place, timestep, options)

    def _configured(self) -> None:
        super()._configured()
        if not self.config["set_alpha_to_one"]:  # of which no step here depends
            self.final_alpha_cumprod = self._signal[0]
        else:
            self.final_alpha_cumprod = torch.tensor(1.0)

    def set_timesteps(  # type: ignore[override]  # diffusers has the third argument elsewhere in these classes
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        original_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        strength: float = 1.0,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps`.

        Args:
            num_inference_steps: the number of steps.
            device: for the timesteps.
            original_inference_steps: the number of timesteps that the network was distilled on; as configured when
                missing.
            timesteps: whole training timesteps, strictly decreasing, shape (steps,).
            strength: the share of the timesteps, the noisiest left out, that image to image walks.

        Raises:
            ValueError: neither or both of `num_inference_steps` and `timesteps` are given, or more steps than there
                are timesteps to choose from.
        """
        if num_inference_steps is not None and timesteps is not None:
            raise ValueError("num_inference_steps and timesteps are both given: leave one of them out.")
        rule = Distilled(original_steps=self._distilled_on(original_inference_steps), strength=strength)
        if timesteps is not None:
            check_timesteps(timesteps, len(self))
            chosen = np.asarray(timesteps)[int(len(timesteps) * (1.0 - strength)) :]
        else:
            asked = asked_for(num_inference_steps)
            chosen = rule.indices(asked.steps, len(self))
        self._begin(asked_for(None, chosen.tolist()), device).given = timesteps is not None

    _write_steps = TimestepScheduler._refuse_steps  # by which diffusers tells whether the last step draws noise

    def _prepared_again(self, generation: Generation) -> Prepared:
        count = len(generation.values)
        if count != generation.steps and (self.ends_by_number or generation.by_number_of_calls):
            raise ValueError(
                f"{count} timesteps are written in place of {generation.steps}, of which only the last draws no noise: "
                "give them to set_timesteps."
            )
        return super()._prepared_again(generation)

    def _distilled_on(self, original_inference_steps: int | None) -> int:
        """The number of timesteps that those of a run are chosen from."""
        return int(original_inference_steps or self.config["original_inference_steps"])

    @property
    def custom_timesteps(self) -> bool:
        """True where the timesteps of the run were given."""
        generation = self._generation
        return generation is not None and generation.given

    def previous_timestep(self, timestep: int | Tensor) -> Any:
        """The timestep of the run that a step from `timestep` leads to, a tensor if it is one; -1 from the last one."""
        values = self._current.values
        following = [*values[1 + index_of(number_of(timestep), values) :], -1][0]
        return torch.tensor(int(following), device=timestep.device) if isinstance(timestep, Tensor) else int(following)
