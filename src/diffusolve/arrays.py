"""The little that is said differently to PyTorch and to the libraries with the Python array API."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "array_like",
    "cast_like",
    "concatenate",
    "copied",
    "detached",
    "is_floating",
    "is_torch",
    "moved",
    "namespace",
    "no_gradients",
    "not_finite",
    "timesteps_like",
    "to_numpy",
    "widen",
]

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


def no_gradients(x: Array) -> AbstractContextManager[Any]:
    """A context in which tensors like `x` keep no history; for other arrays, which have none, any context."""
    return namespace(x).no_grad() if is_torch(x) else nullcontext()


def not_finite(rows: Array) -> list[int]:
    """The indices of those of `rows`, shape (count, ...), that hold NaN or infinity. One wait for an accelerator."""
    xp, count = namespace(rows), rows.shape[0]
    finite = xp.reshape(xp.isfinite(rows), (count, -1))
    good = finite.all(dim=1) if is_torch(finite) else xp.all(finite, axis=1)
    return [index for index, is_good in enumerate(good.tolist()) if not is_good]


def array_like(values: npt.ArrayLike, x: Array) -> Array:
    """`values` as an array in the library, precision and device of `x`."""
    xp = namespace(x)
    if is_torch(x):
        return xp.as_tensor(values, dtype=x.dtype, device=x.device)
    return xp.asarray(values, dtype=x.dtype)


def timesteps_like(timesteps: Sequence[float], x: Array) -> list[Array]:
    """For each timestep an array of shape (batch,) in the library and on the device of `x`, a batch.

    Of whole numbers if all timesteps are Python ints, else in the precision of `x`, and in float32 where that is half.
    """
    xp, count = namespace(x), x.shape[0]
    is_whole = all(isinstance(timestep, int) for timestep in timesteps)
    if not is_torch(x):
        dtype = None if is_whole else widen(x).dtype
        return [xp.full((count,), timestep, dtype=dtype) for timestep in timesteps]
    dtype = xp.int64 if is_whole else xp.promote_types(x.dtype, xp.float32)
    if len(timesteps) == 1:
        return [xp.full((count,), timesteps[0], dtype=dtype, device=x.device)]
    return [row.expand(count) for row in moved(xp.tensor(timesteps, dtype=dtype), x.device)]


def is_floating(x: Array) -> bool:
    """True if `x` holds floating point numbers. Raises TypeError if `x` is no array."""
    return x.is_floating_point() if is_torch(x) else bool(namespace(x).isdtype(x.dtype, "real floating"))


def widen(x: Array) -> Array:
    """`x` in the precision that sums are computed in, at least float32."""
    return _in_precision(x, namespace(x).float32) if x.dtype.itemsize == 2 else x


def cast_like(x: Array, like: Array) -> Array:
    """`x` in the precision of `like`."""
    return x if x.dtype == like.dtype else _in_precision(x, like.dtype)


def _in_precision(x: Array, dtype: Any) -> Array:
    return x.to(dtype) if is_torch(x) else namespace(x).astype(x, dtype)


def copied(x: Array) -> Array:
    """`x` in memory of its own."""
    return x.clone() if is_torch(x) else namespace(x).asarray(x, copy=True)


def detached(x: Array) -> Array:
    """`x` without gradients, which torch tensors alone carry."""
    return x.detach() if is_torch(x) else x


def concatenate(arrays: Sequence[Array]) -> Array:
    """`arrays` joined along their first dimension."""
    xp = namespace(arrays[0])
    return xp.cat(arrays) if is_torch(arrays[0]) else xp.concat(arrays)


def moved(x: Array, device: Any) -> Array:
    """A torch tensor on `device`, without waiting for it: CUDA has read unpinned memory when a copy returns."""
    return x.to(device, non_blocking=device.type == "cuda")


def to_numpy(x: Array) -> npt.NDArray[Any]:
    """`x` as a NumPy array; waits for a device to finish. Of bfloat16, which NumPy does not have, in float32."""
    if not is_torch(x):
        return np.asarray(x)
    x = x.detach().cpu()
    return np.asarray(x.float() if x.dtype is namespace(x).bfloat16 else x)
