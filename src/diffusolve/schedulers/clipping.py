"""Keeping the data prediction in range: clipping and dynamic thresholding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusolve.backends import Clip
from diffusolve.plan import Stage

__all__ = ["clip_asked_for", "dynamic_threshold"]


def clip_asked_for(config: Mapping[str, Any]) -> Callable[[Tensor, Stage], Tensor] | None:
    """The change that `config` makes to each data prediction, by thresholding or clip_sample; None for none."""
    if config.get("thresholding"):
        return partial(_threshold, config["dynamic_thresholding_ratio"], config["sample_max_value"])
    if config.get("clip_sample"):
        if config["clip_sample_range"] is None:
            raise ValueError("clip_sample_range is None: expected a number, as clip_sample is True.")
        return Clip(config["clip_sample_range"])
    return None


def _threshold(ratio: float, most: float, data: Tensor, stage: Stage) -> Tensor:
    return dynamic_threshold(data, ratio, most)


def dynamic_threshold(data: Tensor, ratio: float, most: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3).

    Args:
        data: predictions of x0, shape (batch, ...).
        ratio: which quantile of each sample's absolute values is the limit, at least 1 and at most `most`.
        most: the largest limit; one below 1 is the limit.

    Returns:
        Each sample clipped to plus and minus its limit and divided by it.
    """
    flat = data.reshape(data.shape[0], -1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    limit = torch.quantile(flat.abs(), ratio, dim=1).clamp(1.0, most).unsqueeze(1)
    return (flat.clamp(-limit, limit) / limit).reshape(data.shape).to(data.dtype)
