"""The little that is said differently to PyTorch and to the libraries with the Python array API."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "array_like", "concatenate", "is_torch", "moved", "namespace", "to_numpy"]

Array: TypeAlias = Any
"""A torch tensor, or an array of a library with the Python array API (NumPy, JAX, CuPy)."""


def is_torch(x: object) -> bool:
    """True if `x` is a torch tensor. Does not import torch: without it nothing is one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def namespace(x: Array) -> Any:
    """The library of `x`.

    Raises:
        TypeError: `x` is no array.
    """
    if is_torch(x):
        return sys.modules["torch"]
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    if isinstance(x, np.ndarray):  # NumPy before 2.0
        import array_api_compat.numpy

        return array_api_compat.numpy
    raise TypeError(
        f"expected a torch tensor, a NumPy array or another array with the Python array API, got {type(x).__name__}."
    )


def array_like(values: npt.ArrayLike, x: Array) -> Array:
    """`values` as an array in the library, precision and device of `x`."""
    xp = namespace(x)
    if is_torch(x):
        return xp.as_tensor(values, dtype=x.dtype, device=x.device)
    return xp.asarray(values, dtype=x.dtype)


def concatenate(arrays: Sequence[Array]) -> Array:
    """`arrays` joined along their first dimension."""
    xp = namespace(arrays[0])
    return xp.cat(arrays) if is_torch(arrays[0]) else xp.concat(arrays)


def moved(x: Array, device: Any) -> Array:
    """A torch tensor on `device`, without waiting for it: CUDA has read unpinned memory when a copy returns."""
    return x.to(device, non_blocking=device.type == "cuda")


def to_numpy(x: Array) -> npt.NDArray[Any]:
    """`x` as a NumPy array; waits for a device to finish."""
    return np.asarray(x.detach().cpu() if is_torch(x) else x)
