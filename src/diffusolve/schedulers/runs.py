"""Which run a call to a scheduler belongs to, so that one scheduler serves many loops at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from threading import RLock
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from torch import Tensor
from torch.compiler import is_dynamo_compiling

from diffusolve.schedulers.generation import Generation

__all__ = ["Begun", "Runs"]


class Begun(NamedTuple):
    """A run, the tensor of its timesteps, and which scheduler's it is."""

    generation: Generation
    timesteps: Tensor
    runs: ReferenceType[Runs]


_here: ContextVar[Mapping[object, Begun]] = ContextVar("diffusolve_runs", default=MappingProxyType({}))
"""In each thread and task the runs that it began last: the key of a :class:`Runs` -> its run. Never written to."""


class Runs:
    """The runs of one scheduler. A call belongs to

    1. the run whose timesteps it is handed one of: a view into ``scheduler.timesteps`` is known by the memory that it
       shares, and its place by where it lies there; neither is read, so that nothing waits for a GPU;
    2. else the run that the current thread or asyncio task began last, or inherited from where it was started;
    3. else the run that was begun last anywhere.

    A run hangs on the memory of its timesteps, which every view holds, and is freed with it. Besides their users, the
    scheduler holds the timesteps of its latest run, and each thread and task those of its own.

    Copies and pickles continue the run of the place where they are made, by themselves.

    In code that torch.compile compiles, which can see neither memory nor threads, the latest run is taken.

    Attributes:
        lock: for what a scheduler changes in itself to begin a run.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self._key = object()
        self._latest: Begun | None = None

    def begin(self, generation: Generation, timesteps: Tensor) -> None:
        """Make `generation`, with its `timesteps`, the run of this thread or task and the latest of all."""
        begun = self._begun(generation, timesteps)
        of_others = {key: other for key, other in _here.get().items() if other.runs() is not None}
        _here.set({**of_others, self._key: begun})

    def _begun(self, generation: Generation, timesteps: Tensor) -> Begun:
        generation.owner = self._key
        # PyTorch keeps this object, with its attributes, as long as the memory that it stands for.
        timesteps.untyped_storage()._diffusolve_generation = generation  # type: ignore[attr-defined]
        self._latest = begun = Begun(generation, timesteps, ref(self))
        return begun

    @property
    def current(self) -> Begun | None:
        """The run of this thread or task, else the latest one; None before the first."""
        return self._latest if is_dynamo_compiling() else _here.get().get(self._key, self._latest)

    def of(self, timestep: Any) -> tuple[Generation | None, int | None]:
        """The run that a call with `timestep` belongs to, and the place of `timestep` in it if it is a view."""
        if isinstance(timestep, Tensor) and not is_dynamo_compiling():
            try:
                generation: Generation | None = timestep.untyped_storage()._diffusolve_generation  # type: ignore[attr-defined]
            except (AttributeError, NotImplementedError):  # another tensor, or one in a transform of torch.func
                generation = None
            if generation is not None:
                place: int = timestep.storage_offset()  # type: ignore[assignment]  # a symbol only in compiled code
                if generation.owner is not self._key:
                    generation = self._copy_of(generation)
                elif place != generation.step_index and generation.is_done:
                    generation = self._begun_since(generation, place)
                if generation is not None:
                    return generation, None if generation.counts else place
        begun = self.current
        return (None if begun is None else begun.generation), None

    def _copy_of(self, foreign: Generation) -> Generation | None:
        """The current run if it is a copy of one of another scheduler."""
        begun = self.current
        if begun is None or not foreign.origin or begun.generation.origin != foreign.origin:
            return None
        return begun.generation

    def _begun_since(self, finished: Generation, place: int) -> Generation:
        """The current run, if it comes to `place` now and has the timesteps of a finished one.

        So that a loop may walk a tensor of timesteps once more after another `set_timesteps`.
        """
        begun = self.current
        if begun is not None:
            other = begun.generation
            if other.step_index in (None, place) and other.values == finished.values:
                return other
        return finished

    def __reduce__(self) -> tuple[Any, ...]:
        begun = self.current
        return _continued, () if begun is None else (begun.generation, begun.timesteps)


def _continued(*begun: Any) -> Runs:
    runs = Runs()
    if begun:
        runs._begun(*begun)
    return runs
