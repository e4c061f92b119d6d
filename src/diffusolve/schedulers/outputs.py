"""The results of `step`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias

from torch import Tensor, dtype, promote_types
from torch.utils import _pytree

from diffusolve.backends import Transform, data_prediction
from diffusolve.plan import Stage
from diffusolve.schedulers.versions import UNTRACKED

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "LazyOutput",
    "SchedulerOutput",
    "SchedulerOutputWithData",
    "SchedulerOutputWithDenoised",
    "SchedulerOutputWithMean",
    "SchedulerOutputWithNoised",
    "SchedulerTuple",
    "StepResult",
]

DataSource: TypeAlias = tuple[Stage | None, Transform | None, Tensor, Tensor, int, int, dtype | None]
"""Things that a data prediction follows from (:func:`data_of`), with versions of the tensors."""


class SchedulerOutput(dict[str, Any]):
    """The result of a step: a dictionary of its fields, which are also attributes, and by index those of a tuple.

    Fields can be set in either way, attributes that are no fields as well. Fields cannot be added or removed.
    It is flattened and rebuilt by ``torch.utils._pytree``.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...). A dictionary of all fields takes their place, as for
            programs that rebuild any mapping from one.
    """

    # The dictionary that it is by inheritance stays empty: fields are slots, and all that reads it is defined here.
    __slots__ = ("__dict__", "prev_sample")
    fields: ClassVar[tuple[str, ...]] = ("prev_sample",)

    def __init__(self, prev_sample: Tensor) -> None:
        self.prev_sample = prev_sample
        if isinstance(prev_sample, dict):
            self.update(prev_sample)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _register(cls)

    def keys(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the fields."""
        return self.fields

    def values(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The fields in order."""
        return self.to_tuple()

    def items(self) -> tuple[tuple[str, Tensor], ...]:  # type: ignore[override]
        """(name, field) in order."""
        return tuple(zip(self.fields, self.to_tuple(), strict=True))

    def to_tuple(self) -> tuple[Tensor, ...]:
        """The fields in order."""
        return tuple(getattr(self, name) for name in self.fields)

    def get(self, key: str, default: Any = None) -> Any:
        """The field called `key`, or `default`."""
        return getattr(self, key) if key in self.fields else default

    def copy(self) -> dict[str, Any]:
        """A plain dictionary of the fields."""
        return dict(self.items())

    def update(self, *fields: Any, **named: Any) -> None:
        """Set fields.

        Raises:
            KeyError: there is no such field.
        """
        for key, value in dict(*fields, **named).items():
            self[key] = value

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self.fields:
                raise self._no_field(key)
            return getattr(self, key)
        if isinstance(key, int):
            return getattr(self, self.fields[key])
        return self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self.fields:
            raise self._no_field(key)
        setattr(self, key, value)

    def _no_field(self, key: object) -> KeyError:
        return KeyError(f"{type(self).__name__} has no field {key!r}: its fields are {', '.join(self.fields)}.")

    def _refuse(self, *args: Any) -> NoReturn:
        raise TypeError(f"no field can be removed from {type(self).__name__}: change a copy(), a plain dictionary.")

    __delitem__ = pop = popitem = clear = setdefault = _refuse

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __contains__(self, key: object) -> bool:
        return key in self.fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self.copy() == dict(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __or__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        return self.copy() | dict(other)

    def __ror__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        return dict(other) | self.copy()

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.to_tuple(), vars(self) or None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def _register(cls: type[SchedulerOutput]) -> None:
    """Let torch's pytrees map over the fields of `cls`."""
    _pytree.register_pytree_node(
        cls,
        lambda output: (list(output.to_tuple()), None),
        lambda values, _: cls(*values),
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
    )


_register(SchedulerOutput)


class LazyOutput(SchedulerOutput):
    """The result of a step, with a second field that is computed when it is first read.

    A subclass names the field: it is the data prediction that the step used, unless the scheduler says otherwise.

    Args:
        prev_sample: the sample after the step.
        second: the field; also by its name.
    """

    __slots__ = ("_source", "_value")

    def __init__(self, prev_sample: Tensor, second: Tensor | None = None, **named: Tensor) -> None:
        self.prev_sample = prev_sample
        self._value = second
        self._source: DataSource | None = None
        if named:
            self.update(named)
        elif isinstance(prev_sample, dict):
            self.update(prev_sample)

    def _second(self) -> Tensor:
        if self._source is not None:
            self._value = data_of(*self._source)
            self._source = None
        return self._value  # type: ignore[return-value]  # None only in what a user made without it

    def _set_second(self, value: Tensor) -> None:
        self._value = value
        self._source = None


class SchedulerOutputWithData(LazyOutput):
    """The result of a step, with the prediction of the data.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
        pred_original_sample: the prediction of x0 that the step used, computed when it is first read.
    """

    __slots__ = ()
    fields: ClassVar[tuple[str, ...]] = ("prev_sample", "pred_original_sample")
    pred_original_sample: Tensor = property(LazyOutput._second, LazyOutput._set_second)  # type: ignore[assignment]


class SchedulerOutputWithDenoised(LazyOutput):
    """The result of a step of a consistency model.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
        denoised: the prediction of x0, computed when it is first read.
    """

    __slots__ = ()
    fields: ClassVar[tuple[str, ...]] = ("prev_sample", "denoised")
    denoised: Tensor = property(LazyOutput._second, LazyOutput._set_second)  # type: ignore[assignment]


class SchedulerOutputWithNoised(LazyOutput):
    """The result of a step of trajectory consistency distillation.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
        pred_noised_sample: the prediction of the sample at the point before noise is added, computed when it is first
            read.
    """

    __slots__ = ()
    fields: ClassVar[tuple[str, ...]] = ("prev_sample", "pred_noised_sample")
    pred_noised_sample: Tensor = property(LazyOutput._second, LazyOutput._set_second)  # type: ignore[assignment]


class SchedulerOutputWithMean(SchedulerOutput):
    """The result of a step of an SDE.

    Attributes:
        prev_sample: the sample after the step, shape (batch, ...).
        prev_sample_mean: the same without the step's noise.
    """

    __slots__ = ("prev_sample_mean",)
    fields = ("prev_sample", "prev_sample_mean")

    def __init__(self, prev_sample: Tensor, prev_sample_mean: Tensor) -> None:
        super().__init__(prev_sample)
        self.prev_sample_mean = prev_sample_mean


StepResult: TypeAlias = SchedulerOutput | tuple[Tensor, ...]
"""The result of `step`: an object with fields, or with ``return_dict=False`` a tuple of them."""


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


def data_of(
    stage: Stage | None,
    transform: Transform | None,
    output: Tensor,
    sample: Tensor,
    output_version: int = UNTRACKED,
    sample_version: int = UNTRACKED,
    least: dtype | None = None,
) -> Tensor:
    """The data prediction that a stage made of `output` and `sample`; of none if they were overwritten.

    It has the precision of the two, or what is `least` in the class, unless the output is the data.

    Raises:
        ValueError: they were, by the step itself.
        RuntimeError: they were written to since, which the versions tell.
    """
    if stage is None:
        raise ValueError("pred_original_sample follows from what scheduler.donate lets a step overwrite: leave it out.")
    if output_version != UNTRACKED and (output._version, sample._version) != (output_version, sample_version):
        written = "the network's output" if output._version != output_version else "the sample"
        raise RuntimeError(
            f"{written} that step was given has been written to since, and the prediction of the data is computed when "
            "it is first read: read it before the tensor changes, or give step a clone of it."
        )
    if least is not None and stage.a:
        sample = sample.to(promote_types(sample.dtype, least))
    data: Tensor = data_prediction(stage, sample, output, transform)
    return data.to(promote_types(sample.dtype, output.dtype))
