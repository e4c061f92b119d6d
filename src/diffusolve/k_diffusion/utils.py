"""The function of ``k_diffusion.utils`` that samplers and denoisers need."""

from __future__ import annotations

from torch import Tensor

__all__ = ["append_dims"]


def append_dims(x: Tensor, target_dims: int) -> Tensor:
    """`x` with dimensions of size 1 at its end, so that it has `target_dims` of them.

    Raises:
        ValueError: it has more already.
    """
    missing = target_dims - x.ndim
    if missing < 0:
        raise ValueError(f"the tensor has {x.ndim} dimensions: expected at most target_dims, which is {target_dims}.")
    return x.reshape(*x.shape, *[1] * missing)
