"""The base of schedulers that ask the network twice in each step but the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from diffusolve.backends import Run
from diffusolve.noise import Grid
from diffusolve.plan import Plan, plan_for
from diffusolve.schedulers import members
from diffusolve.schedulers.as_in_diffusers import after_rest_of_step
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.sigma_scheduler import SigmaScheduler
from diffusolve.schedulers.steps import Array, Steps, curve_asked_for

__all__ = ["KDPM2Scheduler", "TwoEvaluations", "TwoStageScheduler"]


class TwoEvaluations(Scheduler):
    """Every step but the last evaluates the network twice. A run in the middle begins where a step does.

    That is at an even index, as ``timesteps[t_start * scheduler.order :]``. Where the first step evaluates it once,
    from flow matching's pure noise in some classes, such an index is in the middle of a step: the run begins with the
    rest of it, as a step of first order.
    """

    order: ClassVar[int] = 2
    counts_on: ClassVar[bool] = True
    members = members.TWO_STAGE
    clears = frozenset({"dt"})

    @property
    def state_in_first_order(self) -> bool:
        """True where the next evaluation begins a step."""
        generation = self._generation
        run = None if generation is None else generation.run
        return run is None or run.is_done or run.stage.stage == 0

    def _would_outlive(self, generation: Generation) -> bool:
        return generation.is_done or not self.state_in_first_order

    def _begun_with_history(self, generation: Generation, index: int, options: Options) -> Run | None:
        brought = generation.brought
        if brought is not None and brought.run is not None and "dt" not in brought.written:
            raise ValueError(
                f"_step_index of this {type(self).__name__} was set in the middle of a step, which diffusers would go "
                "on with: call set_timesteps to begin anew, or set dt to None."
            )
        return None

    def _first(self, generation: Generation, place: int | None, timestep: Any) -> int:
        """As for others; where one step ends and the next begins, at equal timesteps, a run begins with the latter."""
        if place is not None and generation.begin_index is None:
            at, *after = generation.prepared.plan.stages[place : place + 2]
            if after and after[0].point == at.point:
                generation.by_number_of_calls = True
                place += 1
        return super()._first(generation, place, timestep)

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        prepared = generation.prepared
        whole, stages, step = prepared.grid, prepared.plan.stages, prepared.steps_of_evaluations[index]
        if stages[index].stage > 0 and stages[1].stage == 0:
            grid = Grid(
                (whole.at_sigma(stages[index].point.sigma), *whole.points[step + 1 :]),
                whole.noise_schedule,
                whole.scaling,
            )
            solver = after_rest_of_step.with_options(then=self._solver_from(whole, step, options))
            return plan_for(solver, grid, prepared.prediction)
        if stages[index].stage > 0:
            raise ValueError(
                f"evaluation {index} is in the middle of a step, where a run cannot begin: begin at {index - 1} or "
                f"{index + 1}, for example with timesteps[t_start * {self.order}:]."
            )
        return super()._plan_from(generation, index, options)


class TwoStageScheduler(TwoEvaluations, SigmaScheduler):
    """`timesteps` has one entry per evaluation, two a step; the last step, to sigma = 0, has one."""

    begun_when_made: ClassVar[bool] = True

    def set_timesteps(  # type: ignore[override]  # the order of diffusers
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        num_train_timesteps: int | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps`, or over the `sigmas`.

        Args:
            num_inference_steps: how many steps; may be left out where timesteps or sigmas are given.
            device: for the timesteps.
            num_train_timesteps: space the steps over the first so many training timesteps instead of all.
            timesteps: what the network is told where steps begin, the noisiest first, shape (steps,).
            sigmas: where the steps begin, strictly decreasing, shape (steps,), possibly with a last 0.
            mu: how far a flow-matching model's sigmas are shifted, with `use_dynamic_shifting`; without effect
                otherwise.

        Raises:
            ValueError: none of them is given, or two that contradict each other; `num_train_timesteps` of a
                flow-matching model.
        """
        if num_train_timesteps is not None and self._flow is not None:
            raise ValueError(
                f"num_train_timesteps is {num_train_timesteps}, but the steps of a flow-matching model begin at "
                "sigma 1: leave it out, or give sigmas."
            )
        if num_train_timesteps is not None and num_inference_steps is not None and timesteps is None is sigmas:
            asked = Asked(num_inference_steps, tuple(self._spaced(num_inference_steps, num_train_timesteps).tolist()))
        else:
            asked = self._asked_for(num_inference_steps, timesteps, sigmas, mu)
        self._begin(asked, device)

    def _prepared_over(self, steps: Steps) -> Prepared:
        """As for others, but for what is shown of a run: an entry for each evaluation instead of each step."""
        prepared = super()._prepared_over(steps)
        sigmas = prepared.sigmas
        if self._flow is not None:
            return self._flow.shown(prepared)
        prepared.timesteps = self._evaluated(prepared).astype(self.timestep_dtype)
        prepared.sigmas = np.concatenate([sigmas[:1], np.repeat(sigmas[1:-1], 2), sigmas[-1:]])
        return prepared

    def _steps_of_shown(self, generation: Generation, timesteps: Array, sigmas: Array, shown: Array | None) -> Steps:
        return of_evaluations(timesteps, sigmas, shown, len(generation.values))

    def _evaluated(self, prepared: Prepared) -> np.ndarray[Any, Any]:
        """The timesteps told at each evaluation, where `prepared` knows those of each step."""
        return np.array(prepared.plan.timesteps)


def of_evaluations(timesteps: Array, sigmas: Array, shown: Array | None, evaluations: int) -> Steps:
    """The steps of which users see, and have written, an entry per evaluation, two for all but the last.

    Args:
        timesteps: those that users see, or those of the steps.
        sigmas: of the steps and of their end, as they were.
        shown: the sigmas that users see, where they have written them.
        evaluations: how many there are.

    Raises:
        ValueError: the sigma that one step ends at is not that which the next one begins with.
    """
    if len(timesteps) == evaluations:
        timesteps = timesteps[::2]
    if shown is not None:
        shown = shown[: evaluations + 1]  # KDPM2 has more of them than there are
        ends, begins = shown[1:-1:2], shown[2::2]
        unequal = np.flatnonzero(ends != begins[: len(ends)])
        if len(unequal) or len(shown) != evaluations + 1:
            place = 1 + 2 * int(unequal[0]) if len(unequal) else 0
            raise ValueError(
                f"sigmas were written, {len(shown)} for {evaluations} evaluations; number {place} is "
                f"{shown[place]:g} and the next one {shown[min(place + 1, len(shown) - 1)]:g}: expected one for each "
                "evaluation and the end, and equal ones where a step ends and the next begins."
            )
        sigmas = np.append(shown[:-1:2], shown[-1])
    return Steps(timesteps, sigmas[: len(timesteps) + 1])


class KDPM2Scheduler(TwoStageScheduler):
    """The second evaluation of a step is in its middle. `sigmas` ends in two more zeros, as in diffusers."""

    timestep_dtype: ClassVar[type] = np.float64
    members = members.KDPM2
    fixed: ClassVar[frozenset[str]] = TwoStageScheduler.fixed | {"_sigma_to_t"}

    def _prepared_over(self, steps: Steps) -> Prepared:
        prepared = super()._prepared_over(steps)
        if self._flow is not None:
            return prepared
        if curve_asked_for(self._own_config) is None:
            prepared.timesteps = prepared.timesteps.astype(np.float32)
        prepared.sigmas = np.append(prepared.sigmas, np.zeros(2, np.float32))
        return prepared

    def _steps(self, asked: Asked) -> Steps:
        steps = super()._steps(asked)
        return steps._replace(timesteps=np.rint(steps.timesteps)) if self.config["use_karras_sigmas"] else steps
