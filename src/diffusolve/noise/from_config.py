"""The noise schedule that a diffusers scheduler configuration describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusolve.noise.flow_matching import FlowMatching
from diffusolve.noise.schedule import NoiseSchedule
from diffusolve.noise.variance_exploding import VarianceExploding
from diffusolve.noise.variance_preserving import VariancePreserving

__all__ = ["noise_schedule_from_config"]


def noise_schedule_from_config(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule in `config`, the content of a ``scheduler_config.json``.

    Raises:
        ValueError: the configuration says neither betas, nor a flow-matching shift, nor an EDM range.
    """
    count = config.get("num_train_timesteps", 1000)
    name = str(config.get("_class_name", ""))
    if name.startswith("FlowMatch"):
        return FlowMatching(shift=config.get("shift") or 1.0, num_train_timesteps=count)
    if config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        # Of the DPM-Solver family, or of a class to which one of flow matching was carried: betas mean nothing there.
        shift = config.get("flow_shift") if config.get("use_flow_sigmas") else config.get("shift")
        return FlowMatching(shift=shift or 1.0, num_train_timesteps=count)
    if name.startswith("EDM"):
        return VarianceExploding(config.get("sigma_min", 0.002), config.get("sigma_max", 80.0), "edm", count)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise ValueError(f"the configuration of {name or 'this scheduler'} has no beta_schedule: {dict(config)!r}.")
    given = {key: config[key] for key in ("beta_schedule", "beta_start", "beta_end") if key in config}
    trained = config.get("trained_betas")
    return VariancePreserving(
        **given,
        num_train_timesteps=count,
        trained_betas=None if trained is None else tuple(trained),
        rescale_betas_zero_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )
