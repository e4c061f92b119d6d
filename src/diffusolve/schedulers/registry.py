"""Finding the generation that a call to a scheduler belongs to, so that one scheduler serves many loops at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock
from types import MappingProxyType
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.given import several_timesteps
from diffusolve.schedulers.versions import UNTRACKED, version_of

__all__ = ["Entry", "Registry", "notice_writes"]


@dataclass(eq=False, slots=True)
class Entry:
    """A generation, the tensor of its timesteps, and the registry that it stands in."""

    generation: Generation
    timesteps: Tensor
    registry: ReferenceType[Registry]


_here: ContextVar[Mapping[object, Entry]] = ContextVar("diffusolve_generations", default=MappingProxyType({}))
"""In each thread and task the generations that it began last: the key of a :class:`Registry` -> its entry. Never
written to."""


class Registry:
    """The generations of one scheduler. A call belongs to

    1. the generation whose timesteps it is handed one of: a view into ``scheduler.timesteps`` is known by the memory
       that it shares, and its place by where it lies there; neither is read, so that nothing waits for a GPU;
    2. else the one that the current thread or asyncio task began last, or inherited from where it was started;
    3. else the one that was begun last anywhere.

    A generation hangs on the memory of its timesteps, which every view holds, and is freed with it. Besides their
    users, the scheduler holds the timesteps of its latest generation, and each thread and task those of its own.

    Copies and pickles continue the generation of the place where they are made, by themselves.

    In code that torch.compile compiles, which can see neither memory nor threads, the latest generation is taken.

    Attributes:
        lock: for what a scheduler changes in itself, or here, to begin a generation.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self._key = object()
        self._latest: Entry | None = None

    def begin(self, generation: Generation, timesteps: Tensor) -> None:
        """Make `generation`, with its `timesteps`, that of this thread or task and the latest of all."""
        with self.lock:
            entry = self.stand_on(generation, timesteps)
        of_others = {key: other for key, other in _here.get().items() if other.registry() is not None}
        _here.set({**of_others, self._key: entry})

    def stand_on(self, generation: Generation, timesteps: Tensor) -> Entry:
        """Make `generation`, with its `timesteps`, the latest of all, whichever the threads and tasks have begun."""
        generation.owner = self._key
        self._latest = entry = Entry(generation, timesteps, ref(self))
        _hang_on(generation, timesteps)
        return entry

    def rewrite(self, entry: Entry, timesteps: Tensor) -> None:
        """Let `timesteps`, which are nobody else's, take the place of those that `entry` has."""
        entry.timesteps.untyped_storage()._diffusolve_generation = None  # type: ignore[attr-defined]
        entry.timesteps = timesteps
        _hang_on(entry.generation, timesteps)

    @property
    def current(self) -> Entry | None:
        """The generation of this thread or task, else the latest one; None before the first."""
        return self._latest if is_dynamo_compiling() else _here.get().get(self._key, self._latest)

    def of(self, timestep: Any, may_be_several: bool = False) -> tuple[Generation | None, int | None]:
        """The generation that a call with `timestep` belongs to, and the place of `timestep` in it if it is a view.

        Raises:
            ValueError: `timestep` is several and may not be, of which a step would be made from the first.
        """
        if isinstance(timestep, Tensor) and not is_dynamo_compiling():
            try:
                generation: Generation | None = timestep.untyped_storage()._diffusolve_generation  # type: ignore[attr-defined]
            except (AttributeError, NotImplementedError):  # another tensor, or one in a transform of torch.func
                generation = None
            if generation is not None:
                if not may_be_several and timestep.ndim and timestep.numel() > 1 and any(timestep.stride()):
                    raise several_timesteps(timestep)
                place: int = timestep.storage_offset()  # type: ignore[assignment]  # a symbol only in compiled code
                if generation.owner is not self._key:
                    generation = self._copy_of(generation)
                elif place != generation.step_index and generation.is_done:
                    generation = self._begun_since(generation, place)
                if generation is not None:
                    return generation, None if generation.by_number_of_calls else place
        entry = self.current
        return (None if entry is None else entry.generation), None

    def _copy_of(self, other: Generation) -> Generation | None:
        """The current generation if it is a copy of `other`, of another scheduler."""
        entry = self.current
        if entry is None or not other.origin or entry.generation.origin != other.origin:
            return None
        return entry.generation

    def _begun_since(self, finished: Generation, place: int) -> Generation:
        """The current generation, if it comes to `place` now and has the timesteps of a finished one.

        So that a loop may walk a tensor of timesteps once more after another `set_timesteps`.
        """
        entry = self.current
        if entry is not None:
            other = entry.generation
            if other.step_index in (None, place) and other.values == finished.values:
                return other
        return finished

    def __reduce__(self) -> tuple[Any, ...]:
        entry = self.current
        return _continued, () if entry is None else (entry.generation, entry.timesteps)


def notice_writes(generation: Generation, view: Tensor) -> None:
    """Read the timesteps of `generation` again if `view` shows that they were written to in place."""
    version = generation.timesteps_version
    if version == UNTRACKED or view._version == version:  # in this order: untracked ones cannot be asked
        return
    storage = view.untyped_storage()
    values = torch.empty(0, dtype=view.dtype, device=view.device).set_(storage).tolist()
    generation.timesteps_version = version_of(view)
    if values != generation.values:  # of a copy's timesteps the version may be another, too
        generation.with_timesteps(values)


def _hang_on(generation: Generation, timesteps: Tensor) -> None:
    generation.timesteps_version = version_of(timesteps)
    # PyTorch keeps this object, with its attributes, as long as the memory that it stands for.
    timesteps.untyped_storage()._diffusolve_generation = generation  # type: ignore[attr-defined]


def _continued(*latest: Any) -> Registry:
    registry = Registry()
    if latest:
        registry.stand_on(*latest)
    return registry
