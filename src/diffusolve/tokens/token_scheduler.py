"""The base of schedulers whose samples are token ids."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusolve.schedulers.mixin import SchedulerMixin
from diffusolve.schedulers.outputs import SchedulerOutput

__all__ = ["TokenOutput", "TokenScheduler", "check_tokens", "positive", "step_number"]


class TokenOutput(SchedulerOutput):
    """The result of a step on tokens: its `fields`, in their order."""

    __slots__ = ()

    def __init__(self, *values: Tensor) -> None:
        for name, value in zip(self.fields, values, strict=True):
            setattr(self, name, value)


class TokenScheduler(SchedulerMixin):
    """A scheduler of token ids: it has no noise schedule, no sigmas and no plan.

    Attributes:
        timesteps: one per step, in the order of sampling; None where a class has none before `set_timesteps`.
        num_inference_steps: the number of steps.
    """

    refuses_flow: ClassVar[bool] = True
    timesteps: Tensor | None = None
    num_inference_steps: int | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "_sample_from_logits":
            raise AttributeError(f"{type(self).__name__} has no {name}: step draws the tokens.")
        return super().__getattr__(name)

    def _count(self, steps: Any, device: Any, rising: bool = False) -> None:
        """Number `steps` steps, from 0 up if `rising`, else down to 0."""
        self.num_inference_steps = positive("num_inference_steps", steps)
        numbers = torch.arange(self.num_inference_steps, device=device)
        self.timesteps = numbers if rising else numbers.flip(0)


def positive(name: str, value: Any) -> int:
    """`value` as an int.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 1.
    """
    if isinstance(value, bool) or int(value) != value:
        raise TypeError(f"{name} is {value!r}: expected a whole number of at least 1.")
    if value < 1:
        raise ValueError(f"{name} is {value}: expected at least 1.")
    return int(value)


def check_tokens(name: str, tokens: Tensor) -> None:
    """Raise TypeError unless `tokens` holds integers."""
    if (
        not isinstance(tokens, Tensor)
        or tokens.is_floating_point()
        or tokens.is_complex()
        or tokens.dtype is torch.bool
    ):
        found = str(tokens.dtype).removeprefix("torch.") if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(
            f"{name} is of {found}: expected a tensor of token ids (int64). Schedulers of continuous samples, such as "
            "EulerDiscreteScheduler, take floating-point ones."
        )


def step_number(timestep: Any, steps: int) -> int:
    """The step that `timestep` counts.

    Raises:
        ValueError: there is none; the numbers that exist are named.
    """
    number = int(timestep)
    if not 0 <= number < steps:
        raise ValueError(f"timestep is {number}: expected the number of a step, 0 to {steps - 1}.")
    return number
