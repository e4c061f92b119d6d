"""Samples, outputs and timesteps as calls of a scheduler are given them: a timestep as a number, or one per sample."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.errors import shown

__all__ = ["check_noise", "check_tensors", "device_of", "number_of", "several_timesteps", "timesteps_on"]


def check_tensors(output: object, sample: object) -> None:
    """Raise TypeError unless a network's `output` and a `sample` are tensors of floating-point numbers."""
    for name, given in (("model_output", output), ("sample", sample)):
        _check_tensor(name, given, "step")


def device_of(device: Any) -> torch.device | None:
    """The device that PyTorch calls `device`; None for None. Raises ValueError if it has none of that name."""
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device is {shown(device)}: expected one of PyTorch's, for example 'cpu' or 'cuda:0'."
        ) from None


def check_noise(noise: object, samples: Tensor) -> None:
    """Raise an error unless `noise` can be added to `samples`.

    Raises:
        TypeError: it is no tensor of floating-point numbers.
        ValueError: it has another shape.
    """
    _check_tensor("noise", noise, "add noise to")
    assert isinstance(noise, Tensor)
    if noise.shape != samples.shape:
        try:
            torch.broadcast_shapes(noise.shape, samples.shape)  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}: expected that of the samples, {tuple(samples.shape)}."
            ) from None


def _check_tensor(name: str, given: object, use: str) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(
            f"{name} is a {type(given).__name__}: schedulers {use} torch tensors. diffusolve.sample takes NumPy arrays "
            "too, and those of other libraries."
        )
    if not given.is_floating_point():
        raise TypeError(f"{name} is of {given.dtype}: expected floating-point numbers, for example torch.float32.")


def number_of(timestep: Any) -> float:
    """The `timestep` of a step, a number or a tensor of one, as a number.

    Raises:
        ValueError: a tensor of several, of which a step would be made from the first; no finite number.
        TypeError: neither.
    """
    expected = "expected one of scheduler.timesteps, or its number."
    try:
        number = float(timestep)
    except (TypeError, ValueError, RuntimeError) as error:
        if not isinstance(timestep, Tensor):
            raise TypeError(f"timestep is {shown(timestep)}: {expected}") from error
        if timestep.numel() == 1:
            raise
        raise several_timesteps(timestep) from error
    if isinstance(timestep, (bool, str, bytes)):
        raise TypeError(f"timestep is {shown(timestep)}: {expected}")
    if not isfinite(number):
        raise ValueError(f"timestep is {number}: {expected}")
    return number


def several_timesteps(timestep: Tensor) -> ValueError:
    """The error for a tensor of several timesteps, or none, where a step is from one."""
    return ValueError(
        f"timestep is {timestep.numel()} timesteps, {shown(timestep.tolist())}: a step is made from one for the whole "
        "batch. Call it for the rows of each timestep on their own."
    )


def timesteps_on(timesteps: Tensor, like: Tensor) -> Tensor:
    """`timesteps` on the device of the samples `like`, without waiting for it.

    Raises:
        TypeError: they are no tensor, or the samples are none of floating-point numbers.
        ValueError: there are not as many as samples, nor one for all.
    """
    _check_tensor("sample", like, "add noise to")
    if not isinstance(timesteps, Tensor):
        raise TypeError(
            f"timesteps is {shown(timesteps)}: expected a tensor with one for each sample, shape (batch,), for example "
            "torch.tensor([5])."
        )
    count = len(like) if like.ndim else 1
    if count > 1 and timesteps.numel() not in (1, count):
        raise ValueError(
            f"timesteps holds {timesteps.numel()} for {count} samples: expected one for each, or one for all."
        )
    there: Tensor = moved(timesteps, like.device)
    return there
