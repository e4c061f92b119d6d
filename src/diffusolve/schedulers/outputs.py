"""What `step` returns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor

from diffusolve.backends import Transform, backend_of
from diffusolve.plan import Stage

__all__ = [
    "LazyOutput",
    "SchedulerOutput",
    "SchedulerOutputWithData",
    "SchedulerOutputWithDenoised",
    "SchedulerOutputWithNoised",
    "SchedulerTuple",
    "StepResult",
]

DataSource: TypeAlias = tuple[Stage | None, Transform | None, Tensor, Tensor]
"""What a data prediction follows from: see :func:`data_of`."""


class SchedulerOutput:
    """The result of a step: readable as attributes, by key, by index and as a tuple.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
    """

    __slots__ = ("prev_sample",)
    fields: tuple[str, ...] = ("prev_sample",)

    def __init__(self, prev_sample: Tensor) -> None:
        self.prev_sample = prev_sample

    def keys(self) -> tuple[str, ...]:
        """The names of the fields."""
        return self.fields

    def values(self) -> tuple[Tensor, ...]:
        """The fields in order."""
        return self.to_tuple()

    def items(self) -> tuple[tuple[str, Tensor], ...]:
        """(name, field) in order."""
        return tuple(zip(self.fields, self.to_tuple(), strict=True))

    def to_tuple(self) -> tuple[Tensor, ...]:
        """The fields in order."""
        return tuple(getattr(self, name) for name in self.fields)

    def get(self, key: str, default: Any = None) -> Any:
        """The field called `key`, or `default`."""
        return getattr(self, key) if key in self.fields else default

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.fields:
                raise KeyError(key)
            return getattr(self, key)
        if isinstance(key, int):
            return getattr(self, self.fields[key])
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __contains__(self, key: object) -> bool:
        return key in self.fields

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


class LazyOutput(SchedulerOutput):
    """The result of a step, with a second field that is computed when it is first read.

    A subclass names the field: it is the data prediction that the step used, unless the scheduler says otherwise.
    """

    __slots__ = ("_source", "_value")

    def __init__(self, prev_sample: Tensor, source: DataSource) -> None:
        self.prev_sample = prev_sample
        self._source: DataSource | None = source

    def _second(self) -> Tensor:
        if self._source is not None:
            self._value = data_of(*self._source)
            self._source = None
        return self._value


class SchedulerOutputWithData(LazyOutput):
    """The result of a step, with the prediction of the data.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
        pred_original_sample: the prediction of x0 that the step used, computed when it is first read.
    """

    __slots__ = ()
    fields = ("prev_sample", "pred_original_sample")
    pred_original_sample = property(LazyOutput._second)


class SchedulerOutputWithDenoised(LazyOutput):
    """The result of a step of a consistency model.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
        denoised: the prediction of x0, computed when it is first read.
    """

    __slots__ = ()
    fields = ("prev_sample", "denoised")
    denoised = property(LazyOutput._second)


class SchedulerOutputWithNoised(LazyOutput):
    """The result of a step of trajectory consistency distillation.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
        pred_noised_sample: the prediction of the sample at the point before noise is added, computed when it is first
            read.
    """

    __slots__ = ()
    fields = ("prev_sample", "pred_noised_sample")
    pred_noised_sample = property(LazyOutput._second)


StepResult: TypeAlias = SchedulerOutput | tuple[Any, ...]
"""What `step` returns: an object with fields, or with ``return_dict=False`` a tuple of them."""


class SchedulerTuple(tuple[Any, ...]):
    """``(prev_sample, pred_original_sample)``, the second computed when it is first read.

    Made of ``(prev_sample, source)``, where the data follow from `source`.
    """

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        previous, source = tuple.__iter__(self)
        return previous, data_of(*source)

    def __getitem__(self, index: Any) -> Any:
        return tuple.__getitem__(self, 0) if index == 0 else self._both[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._both)

    def __repr__(self) -> str:
        return repr(self._both)

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[tuple[Tensor, ...]]]:
        return tuple, (self._both,)


def data_of(stage: Stage | None, transform: Transform | None, output: Tensor, sample: Tensor) -> Tensor:
    """The data prediction that a stage made of `output` and `sample`; of none if they were overwritten.

    Raises:
        ValueError: they were.
    """
    if stage is None:
        raise ValueError("pred_original_sample follows from what scheduler.donate lets a step overwrite: leave it out.")
    data: Tensor = backend_of(sample).combine((sample, output), (stage.a, stage.b))
    data = data if transform is None else transform(data, stage)
    return data if data.dtype == sample.dtype else data.to(sample.dtype)
