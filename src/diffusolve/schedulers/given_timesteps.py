"""Timesteps as calls of a scheduler are given them: one as a number, or a tensor of one for each sample."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.errors import shown

__all__ = ["number_of", "several_timesteps", "timesteps_on"]


def number_of(timestep: Any) -> float:
    """The `timestep` of a step, a number or a tensor of one, as a number.

    Raises:
        ValueError: a tensor of several, of which a step would be made from the first.
        TypeError: neither.
    """
    try:
        return float(timestep)
    except (TypeError, ValueError, RuntimeError) as error:
        if not isinstance(timestep, Tensor):
            raise TypeError(
                f"timestep is {shown(timestep)}: expected one of scheduler.timesteps, or its number."
            ) from error
        if timestep.numel() == 1:
            raise
        raise several_timesteps(timestep) from error


def several_timesteps(timestep: Tensor) -> ValueError:
    """The error for a tensor of several timesteps, or none, where a step is from one."""
    return ValueError(
        f"timestep is {timestep.numel()} timesteps, {shown(timestep.tolist())}: a step is made from one for the whole "
        "batch. Call it for the rows of each timestep on their own."
    )


def timesteps_on(timesteps: Tensor, like: Tensor) -> Tensor:
    """`timesteps` on the device of `like`, without waiting for it.

    Raises:
        TypeError: they are no tensor.
    """
    if not isinstance(timesteps, Tensor):
        raise TypeError(
            f"timesteps is {shown(timesteps)}: expected a tensor with one for each sample, shape (batch,), for example "
            "torch.tensor([5])."
        )
    there: Tensor = moved(timesteps, like.device)
    return there
