"""The types of `step` by its `return_dict`: a tuple where that is False, else an object with fields.

The signatures that many scheduler classes have are declared here once; a class says
``@declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)`` above its own method. Where `return_dict` is a
variable, the result is one of the two. A method with arguments that no other class has is under :func:`by_return_dict`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from torch import Tensor

__all__ = ["Fields", "Plain", "WithChurn", "WithEta", "WithGenerator", "WithNoise", "by_return_dict", "declared_as"]

Fields: TypeAlias = tuple[Tensor, ...]
"""The fields of a step's result, in order."""

P = ParamSpec("P")
Time = TypeVar("Time")
Out = TypeVar("Out")
Out_co = TypeVar("Out_co", covariant=True)
F = TypeVar("F")


class ByReturnDict(Protocol[P, Out_co]):
    """A method; with ``return_dict=False`` its other arguments are not checked, since they cannot be repeated here."""

    @overload
    def __call__(self, *args: Any, return_dict: Literal[False], **kwargs: Any) -> Fields: ...

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Out_co: ...


def by_return_dict(step: Callable[Concatenate[Any, P], Out | Fields]) -> ByReturnDict[P, Out]:
    """Let type checkers know that a method's result is a tuple with ``return_dict=False``."""
    return step  # type: ignore[return-value]


def declared_as(declared: F) -> Callable[[Callable[..., Any]], F]:
    """Let type checkers take a method for `declared`, which has the same arguments with the same defaults."""
    return lambda step: step  # type: ignore[return-value]


class WithGenerator(Generic[Time, Out]):
    """`step` with a generator of noise."""

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        generator: Any = ...,
        return_dict: Literal[True] = ...,
    ) -> Out: ...

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        generator: Any = ...,
        *,
        return_dict: Literal[False],
    ) -> Fields: ...

    @overload
    def step(
        self: Any, model_output: Tensor, timestep: Time, sample: Tensor, generator: Any = ..., return_dict: bool = ...
    ) -> Out | Fields: ...

    def step(
        self, model_output: Tensor, timestep: Time, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> Any:
        """The declaration."""
        raise NotImplementedError


class WithEta(Generic[Time, Out]):
    """`step` with the options of DDIM."""

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        eta: float = ...,
        use_clipped_model_output: bool = ...,
        generator: Any = ...,
        variance_noise: Tensor | None = ...,
        return_dict: Literal[True] = ...,
    ) -> Out: ...

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        eta: float = ...,
        use_clipped_model_output: bool = ...,
        generator: Any = ...,
        variance_noise: Tensor | None = ...,
        *,
        return_dict: Literal[False],
    ) -> Fields: ...

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        eta: float = ...,
        use_clipped_model_output: bool = ...,
        generator: Any = ...,
        variance_noise: Tensor | None = ...,
        return_dict: bool = ...,
    ) -> Out | Fields: ...

    def step(
        self,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The declaration."""
        raise NotImplementedError


class Plain(Generic[Time, Out]):
    """`step` without options."""

    @overload
    def step(
        self: Any, model_output: Tensor, timestep: Time, sample: Tensor, return_dict: Literal[True] = ...
    ) -> Out: ...

    @overload
    def step(
        self: Any, model_output: Tensor, timestep: Time, sample: Tensor, *, return_dict: Literal[False]
    ) -> Fields: ...

    @overload
    def step(
        self: Any, model_output: Tensor, timestep: Time, sample: Tensor, return_dict: bool = ...
    ) -> Out | Fields: ...

    def step(self, model_output: Tensor, timestep: Time, sample: Tensor, return_dict: bool = True) -> Any:
        """The declaration."""
        raise NotImplementedError


class WithNoise(Generic[Time, Out]):
    """`step` with a generator of noise, or the noise itself."""

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        generator: Any = ...,
        variance_noise: Tensor | None = ...,
        return_dict: Literal[True] = ...,
    ) -> Out: ...

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        generator: Any = ...,
        variance_noise: Tensor | None = ...,
        *,
        return_dict: Literal[False],
    ) -> Fields: ...

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        generator: Any = ...,
        variance_noise: Tensor | None = ...,
        return_dict: bool = ...,
    ) -> Out | Fields: ...

    def step(
        self,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The declaration."""
        raise NotImplementedError


class WithChurn(Generic[Time, Out]):
    """`step` with the churn of Karras et al."""

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        s_churn: float = ...,
        s_tmin: float = ...,
        s_tmax: float = ...,
        s_noise: float = ...,
        generator: Any = ...,
        return_dict: Literal[True] = ...,
    ) -> Out: ...

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        s_churn: float = ...,
        s_tmin: float = ...,
        s_tmax: float = ...,
        s_noise: float = ...,
        generator: Any = ...,
        *,
        return_dict: Literal[False],
    ) -> Fields: ...

    @overload
    def step(
        self: Any,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        s_churn: float = ...,
        s_tmin: float = ...,
        s_tmax: float = ...,
        s_noise: float = ...,
        generator: Any = ...,
        return_dict: bool = ...,
    ) -> Out | Fields: ...

    def step(
        self,
        model_output: Tensor,
        timestep: Time,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """The declaration."""
        raise NotImplementedError
