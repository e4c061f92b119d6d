"""Writing to a scheduler: what programs assign to its timesteps, sigmas and number of steps, or change in place.

A generation goes on with what was written: its steps are made anew by its next call, and a run in progress continues
from its place with the new coefficients. What cannot take effect raises an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from diffusolve.schedulers.generation import Generation, Prepared
from diffusolve.schedulers.open_run import OpenRun
from diffusolve.schedulers.steps import Array, Steps

if TYPE_CHECKING:
    from diffusolve.backends import Run, Transform
    from diffusolve.plan import Plan
    from diffusolve.schedulers.generation import Options
    from diffusolve.schedulers.registry import Entry, Registry

__all__ = ["WrittenTo", "check_row", "in_own_memory"]


class WrittenTo:
    """A scheduler whose timesteps, sigmas and number of steps can be assigned to.

    Attributes:
        writes: for each name that is written to in a way of its own, how.
        plans_follow_from: the attributes that plans follow from: writing to one replaces ``_edition``.
        only_read: those that diffusers' steps read and ours do not, so that writing another value has no effect.
    """

    plans_follow_from: ClassVar[frozenset[str]] = frozenset({"_internal_dict"})
    only_read: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[Mapping[str, Callable[[Any, Any], None]]] = {
        "timesteps": lambda scheduler, value: scheduler._write_timesteps(value),
        "sigmas": lambda scheduler, value: scheduler._write_sigmas(value),
        "num_inference_steps": lambda scheduler, value: scheduler._write_steps(value),
    }

    if TYPE_CHECKING:
        _registry: Registry
        _edition: object
        _shown_early: Mapping[str, Tensor]
        _transform: Transform | None

        @property
        def _entry(self) -> Entry | None: ...

        @property
        def _current(self) -> Generation: ...

        def _write_member(self, name: str, value: Any) -> bool: ...
        def _follow_configuration(self) -> None: ...
        def _prepared_over(self, steps: Steps) -> Prepared: ...
        def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan: ...

    def __setattr__(self, name: str, value: Any) -> None:
        write = self.writes.get(name)
        if write is not None and hasattr(type(self), name):
            write(self, value)
            return
        if self._write_member(name, value):
            return
        descriptor = getattr(type(self), name, None)
        if isinstance(descriptor, property) and descriptor.fset is None:
            raise AttributeError(
                f"{type(self).__name__}.{name} follows from the configuration and the run, and cannot be written to: "
                "register_to_config and set_timesteps change these."
            )
        if name in self.only_read and "_prepared_runs" in vars(self):  # the constructor is done
            self._check_same(name, value)
        super().__setattr__(name, value)
        if name in self.plans_follow_from:
            super().__setattr__("_edition", object())
            vars(self).get("_prepared_runs", {}).clear()

    def _check_same(self, name: str, value: Any) -> None:
        """Raise AttributeError unless `value` is what the attribute called `name` is, wherever in memory."""
        own = getattr(self, name, None)
        if isinstance(own, Tensor) and isinstance(value, Tensor):
            same = torch.equal(own, value.to(own))
        else:
            same = own is value or own == value
        if not same:
            raise AttributeError(
                f"{type(self).__name__}.{name} is written, on which no step here depends: make another scheduler, "
                f"{type(self).__name__}.from_config(scheduler.config, ...), with what it is to follow from."
            )

    # What is written -------------------------------------------------------------------------------------------------

    def _write_timesteps(self, timesteps: Tensor) -> None:
        """Go on with other timesteps, shape (evaluations,), or with the same elsewhere in memory."""
        check_row("timesteps", timesteps)
        entry = self._entry
        if entry is None:
            self._write_early("timesteps", timesteps)
            return
        if timesteps is entry.timesteps:
            return
        generation = entry.generation
        self._registry.rewrite(entry, in_own_memory(timesteps))
        values = timesteps.tolist()
        if values != generation.values:
            generation.with_timesteps(values)

    def _write_sigmas(self, sigmas: Tensor) -> None:
        """Go on with other sigmas, shape (evaluations + 1,), the last of which is where the run ends."""
        check_row("sigmas", sigmas)
        entry = self._entry
        if entry is None:
            self._write_early("sigmas", sigmas)
            return
        generation = entry.generation
        generation.with_sigmas(sigmas, others=sigmas.tolist() != generation.sigmas.tolist())

    def _write_steps(self, steps: int | None) -> None:
        """Tell the run another number of steps, where its class reads that."""
        self._current.steps = steps

    def _write_early(self, name: str, value: Tensor) -> None:
        """Let what is shown before `set_timesteps` be equal numbers elsewhere in memory, as ``.to(device)`` makes them.

        Raises:
            ValueError: they are others.
        """
        shown: Tensor = getattr(self, name)
        if value.shape != shown.shape or not torch.equal(value.to(shown), shown):
            raise ValueError(
                f"{name} are written before set_timesteps, which makes others: call it first, or give them to it."
            )
        vars(self)["_shown_early"] = {**self._shown_early, name: value}

    # What follows from it --------------------------------------------------------------------------------------------

    def _followed(self, generation: Generation) -> Generation:
        """`generation`, with whatever was written since."""
        if generation.edition is not self._edition:
            self._follow(generation)
        return generation

    def _follow(self, generation: Generation) -> None:
        """Let `generation` go on after something may have been written that its plan followed from.

        Whoever changes what plans are made of, a configuration or a table, replaces ``self._edition``; each step
        compares it with the edition of its generation, by identity, and comes here if they differ. They always do where
        users were handed the sigmas, or the table: of these the versions are compared here.
        """
        with self._registry.lock:
            self._follow_configuration()
            edition = self._edition
        if generation.is_written_to:
            generation.sigmas_written = True
        elif generation.followed is edition:
            return
        prepared = self._prepared_again(generation)
        run = generation.run
        if run is not None and not run.is_done:
            run = self._continued(generation, run, prepared)
        generation.go_on_with(prepared, run)
        generation.followed = edition
        generation.edition = edition if generation.watched is None and not self._table_is_handed_out else None

    @property
    def _table_is_handed_out(self) -> bool:
        """True where users hold a table that steps follow from, and may write to it."""
        return False

    def _prepared_again(self, generation: Generation) -> Prepared:
        """The findings of `set_timesteps` with what was written since."""
        before = generation.prepared
        if before.steps is None:
            self._cannot_follow(generation)
        timesteps, sigmas = before.steps
        if generation.timesteps_written:
            timesteps = np.array(generation.values, np.float64)
        shown = generation.sigmas.double().cpu().numpy() if generation.sigmas_written else None
        if shown is None and (not generation.timesteps_written or generation.by_number_of_calls):
            return self._prepared_over(before.steps)
        return self._prepared_over(self._steps_of_shown(generation, timesteps, sigmas, shown))

    def _steps_of_shown(self, generation: Generation, timesteps: Array, sigmas: Array, shown: Array | None) -> Steps:
        """The steps of which users see, and have written, these numbers.

        Args:
            generation: that goes on.
            timesteps: those that users see.
            sigmas: of the steps and of their end, as they were.
            shown: the sigmas that users see, where they have written them.
        """
        sigmas = sigmas if shown is None else shown
        cut = np.array_equal(timesteps, generation.prepared.timesteps[: len(timesteps)])  # to end earlier
        if generation.begun_before and len(timesteps) != len(sigmas) - 1 and not cut:  # counted on, as the sigmas are
            timesteps = np.resize(timesteps, len(sigmas) - 1)
        if len(sigmas) < len(timesteps) + 1:
            raise ValueError(
                f"there are {len(timesteps)} timesteps and {len(sigmas)} sigmas: expected one sigma more, where the "
                "last step leads. Write both, or give them to set_timesteps."
            )
        return Steps(timesteps, sigmas[: len(timesteps) + 1])

    def _cannot_follow(self, generation: Generation) -> NoReturn:
        raise ValueError(
            f"something was written to this {type(self).__name__} that its steps follow from, and it cannot change "
            "them any more: call set_timesteps after writing."
        )

    def _continued(self, generation: Generation, run: Run, prepared: Prepared) -> Run | None:
        """`run`, which has begun, with the coefficients of what is `prepared` now; None where it begins anew, at its
        place, because it remembers nothing.

        Raises:
            ValueError: it remembers what cannot be told apart any more.
        """
        before, generation.prepared = generation.prepared, prepared
        try:
            first = before.plan.nfe - run.plan.nfe
            plain = first == 0 and not generation.options
            plan = prepared.plan if plain else self._plan_from(generation, first, generation.options)
        finally:
            generation.prepared = before
        if plan == run.plan and run.transform == self._transform:
            return run
        if not generation.remembers:
            return None
        following = OpenRun.in_place_of(run, plan, self._transform)
        if following is None:
            raise ValueError(
                f"something was written to this {type(self).__name__} in the middle of a run, whose history was not "
                "kept for that: write before its first step, or say scheduler.keep_history() before that."
            )
        return following


def check_row(name: str, value: Any) -> None:
    """Raise TypeError or ValueError unless `value` is a tensor of numbers in a row."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} are a {type(value).__name__}: expected a tensor, as torch.tensor makes one.")
    if value.ndim != 1 or not len(value):
        raise ValueError(f"{name} have shape {tuple(value.shape)}: expected (number,), at least 1.")


def in_own_memory(timesteps: Tensor) -> Tensor:
    """`timesteps`, in memory that is nobody else's: places are told by where they lie in it."""
    storage = timesteps.untyped_storage()
    whole = timesteps.storage_offset() == 0 and timesteps.numel() * timesteps.element_size() == storage.nbytes()
    if whole and timesteps.is_contiguous() and getattr(storage, "_diffusolve_generation", None) is None:
        return timesteps
    return timesteps.clone()
