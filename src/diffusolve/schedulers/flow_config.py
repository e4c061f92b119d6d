"""Carrying the configuration of a flow-matching scheduler to any class that can sample such a model.

There are three ways to say it: FlowMatchEuler's keys (`shift` and so on); `use_flow_sigmas`, `flow_shift` and
``prediction_type="flow_prediction"`` in the DPM-Solver family; and, for classes that have no word for it in diffusers,
``prediction_type="flow_prediction"`` together with FlowMatchEuler's keys, which their configuration keeps. This is the
one place that translates between them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from diffusolve.schedulers.steps import CURVES

__all__ = ["FLOW_KEYS", "FLOW_STEPS", "carried_flow", "check_no_flow", "is_flow"]

FLOW_STEPS = "_flow_steps"
"""The configuration key of a class of the DPM-Solver family whose steps are placed as FlowMatchEuler places them, and
not as `use_flow_sigmas` alone does: exact timesteps, all curves, `shift_terminal`, and an end at the data."""

FLOW_KEYS = (
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "invert_sigmas",
    "shift_terminal",
    "time_shift_type",
    "stochastic_sampling",
    "scale_factors",
    "upscale_mode",
    "eta",
    "s_noise",
    *CURVES,
)
"""The keys of the classes that are for flow matching alone."""


def is_flow(config: Mapping[str, Any]) -> bool:
    """True if `config` is that of a scheduler for a flow-matching model."""
    return _key_of_flow(config) is not None


def _key_of_flow(config: Mapping[str, Any]) -> str | None:
    """The key of `config` by which it is that of a flow-matching model; None if no key says so."""
    name = str(config.get("_class_name", ""))  # which is in files only
    if name.startswith("FlowMatch") or name == "LTXEulerAncestralRFScheduler":
        return "_class_name"
    if config.get(FLOW_STEPS):
        return FLOW_STEPS
    if config.get("prediction_type") == "flow_prediction":
        return "prediction_type"
    if not name and "shift" in config:
        return "shift"
    return "eta" if not name and "eta" in config and "beta_schedule" not in config else None


def check_no_flow(name: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError if `config`, which the class `name` is given, is that of a flow-matching model."""
    key = _key_of_flow(config)
    if key is not None:
        raise ValueError(
            f"{name} cannot sample a flow-matching model, and by its {key} this is the configuration of one: use "
            "EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler, "
            "KDPM2DiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler or "
            "FlowMatchEulerDiscreteScheduler, for example."
        )


def carried_flow(
    config: Mapping[str, Any], given: dict[str, Any], known: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A flow-matching configuration in the words of a class that knows the keys `known`.

    Args:
        config: of any class.
        given: what the caller of `from_config` puts in its place, from which the second result is taken out.
        known: the keys of the class, with "shift" if it is for flow matching alone.

    Returns:
        the configuration, and keys that its constructor is not to see: they count together with :data:`FLOW_STEPS`.
    """
    carried = dict(config)
    later: dict[str, Any] = {}
    if "shift" in known and not carried.keys() & {"use_flow_sigmas", "prediction_type"}:
        return carried, later
    if "use_flow_sigmas" in given or ("use_flow_sigmas" in known and _says_so_itself(carried)):
        return carried, later
    shift = carried.pop("flow_shift", None) if carried.pop("use_flow_sigmas", None) else None
    shift = carried.get("shift", 1.0) if shift is None else shift
    carried["shift"] = given.get("flow_shift", given.get("shift", shift))
    carried.pop("flow_shift", None)
    carried.pop(FLOW_STEPS, None)
    if "shift" in known:
        carried.pop("prediction_type", None)
        return carried, later
    carried["prediction_type"] = "flow_prediction"
    if "use_flow_sigmas" in known:
        carried |= {"use_flow_sigmas": True, "flow_shift": carried["shift"], FLOW_STEPS: True}
        asked = {curve: given.pop(curve, carried.pop(curve, None)) for curve in CURVES if curve in known}
        later = {curve: value for curve, value in asked.items() if value}
    return carried, later


def _says_so_itself(config: Mapping[str, Any]) -> bool:
    """True if `config` is one of the DPM-Solver family's, with steps as these classes place them."""
    return bool(config.get("use_flow_sigmas")) and not config.get(FLOW_STEPS)
