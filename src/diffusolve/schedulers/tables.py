"""The tables that a diffusers scheduler keeps: betas and what follows from them, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusolve.errors import unknown_name
from diffusolve.noise import TabulatedSignal
from diffusolve.noise.betas import betas as named_betas
from diffusolve.noise.betas import rescale_zero_terminal_snr

__all__ = ["NEARLY_ZERO", "Tables", "tables_of"]

NEARLY_ZERO = 2.0**-24
"""The last alphas_cumprod of schedulers that divide by alpha, in place of zero; sigma is then 4096."""


class Tables(NamedTuple):
    """Shared between schedulers, so not to be written to.

    The tables are computed in float32 step by step, as the models' training code did: the noise schedule then has the
    very numbers that users of diffusers get.
    """

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor
    noise_schedule: TabulatedSignal


def tables_of(config: Mapping[str, Any], *, beta_schedules: tuple[str, ...], floor: float = 0.0) -> Tables:
    """The tables that `config` describes.

    Args:
        config: with num_train_timesteps, beta_schedule and, where these are asked for, beta_start, beta_end,
            trained_betas and rescale_betas_zero_snr; with snr_shift_scale, which divides the signal-to-noise ratio
            (CogVideoX), the tables are of double precision, and the betas those of before.
        beta_schedules: the beta schedules that the class knows.
        floor: takes the place of a last alphas_cumprod of zero.

    Raises:
        UnknownNameError: the class does not know the beta schedule.
    """
    trained = config.get("trained_betas")
    if trained is None and config["beta_schedule"] not in beta_schedules:
        raise unknown_name("beta_schedule", config["beta_schedule"], beta_schedules)
    return _tables(
        config["beta_schedule"],
        float(config.get("beta_start", 0.0)),
        float(config.get("beta_end", 0.0)),
        int(config["num_train_timesteps"]),
        None if trained is None else tuple(float(beta) for beta in trained),
        bool(config.get("rescale_betas_zero_snr", False)),
        floor,
        float(config["snr_shift_scale"]) if "snr_shift_scale" in config else None,
    )


@lru_cache(maxsize=128)
def _tables(
    beta_schedule: str,
    beta_start: float,
    beta_end: float,
    count: int,
    trained: tuple[float, ...] | None,
    zero_snr: bool,
    floor: float,
    snr_shift: float | None,
) -> Tables:
    if snr_shift is not None:
        return _shifted_tables(beta_schedule, beta_start, beta_end, count, trained, zero_snr, snr_shift)
    if trained is None:
        betas = _named(beta_schedule, beta_start, beta_end, count)
    else:
        betas = torch.tensor(trained, dtype=torch.float32)
    if zero_snr:
        signal = rescale_zero_terminal_snr(torch.cumprod(1.0 - betas, dim=0).numpy())
        betas = torch.from_numpy(1.0 - np.append(signal[:1], signal[1:] / signal[:-1]))
    alphas = 1.0 - betas
    cumprod = torch.cumprod(alphas, dim=0)
    if zero_snr and floor:
        cumprod[-1] = floor
    return Tables(betas, alphas, cumprod, TabulatedSignal(tuple(cumprod.double().tolist())))


def _shifted_tables(
    beta_schedule: str,
    beta_start: float,
    beta_end: float,
    count: int,
    trained: tuple[float, ...] | None,
    zero_snr: bool,
    snr_shift: float,
) -> Tables:
    """The tables of a schedule whose signal-to-noise ratio is divided by `snr_shift` (Yang et al. 2024, CogVideoX)."""
    if trained is not None:
        betas = torch.tensor(trained, dtype=torch.float32)
    else:
        precision = torch.float64 if beta_schedule == "scaled_linear" else torch.float32
        betas = _named(beta_schedule, beta_start, beta_end, count, precision)
    alphas = 1.0 - betas
    cumprod = torch.cumprod(alphas, dim=0)
    cumprod = cumprod / (snr_shift + (1.0 - snr_shift) * cumprod)
    if zero_snr:
        cumprod = torch.from_numpy(rescale_zero_terminal_snr(cumprod.numpy()))
    return Tables(betas, alphas, cumprod, TabulatedSignal(tuple(cumprod.double().tolist())))


def _named(
    beta_schedule: str, beta_start: float, beta_end: float, count: int, precision: torch.dtype = torch.float32
) -> Tensor:
    """The betas of a schedule, to the last bit of `precision` those of the training code."""
    if beta_schedule == "linear":
        return torch.linspace(beta_start, beta_end, count, dtype=precision)
    if beta_schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, count, dtype=precision) ** 2
    return torch.tensor(named_betas(beta_schedule, beta_start, beta_end, count), dtype=torch.float32)
