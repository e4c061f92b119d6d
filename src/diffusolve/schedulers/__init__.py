"""Scheduler classes: drop-in for diffusers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from diffusolve.errors import needs_torch, unknown_name

__all__ = ["CLASSES", "scheduler_class"]

CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "CMStochasticIterativeScheduler": "cm_stochastic_iterative",
        "CogVideoXDDIMScheduler": "cogvideox_ddim",
        "CogVideoXDPMScheduler": "cogvideox_dpm",
        "ConsistencyDecoderScheduler": "consistency_decoder",
        "CosineDPMSolverMultistepScheduler": "cosine_dpmsolver_multistep",
        "DDIMInverseScheduler": "ddim_inverse",
        "DDIMParallelScheduler": "ddim_parallel",
        "DDIMScheduler": "ddim",
        "DDPMParallelScheduler": "ddpm_parallel",
        "DDPMScheduler": "ddpm",
        "DDPMWuerstchenScheduler": "ddpm_wuerstchen",
        "DEISMultistepScheduler": "deis_multistep",
        "DPMSolverFastScheduler": "dpmsolver_fast",
        "DPMSolverMultistepInverseScheduler": "dpmsolver_multistep_inverse",
        "DPMSolverMultistepScheduler": "dpmsolver_multistep",
        "DPMSolverSDEScheduler": "dpmsolver_sde",
        "DPMSolverSinglestepAncestralScheduler": "dpmsolver_singlestep_ancestral",
        "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
        "EDMDPMSolverMultistepScheduler": "edm_dpmsolver_multistep",
        "EDMEulerScheduler": "edm_euler",
        "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
        "EulerDiscreteScheduler": "euler_discrete",
        "FlowMapEulerDiscreteScheduler": "flow_map_euler_discrete",
        "FlowMatchEulerDiscreteScheduler": "flow_match_euler_discrete",
        "FlowMatchHeunDiscreteScheduler": "flow_match_heun_discrete",
        "FlowMatchLCMScheduler": "flow_match_lcm",
        "FlowMatchSDEDiscreteScheduler": "flow_match_sde_discrete",
        "HeliosDMDScheduler": "helios_dmd",
        "HeliosScheduler": "helios",
        "HeunDiscreteScheduler": "heun_discrete",
        "IPNDMScheduler": "ipndm",
        "KDPM2AncestralDiscreteScheduler": "k_dpm_2_ancestral_discrete",
        "KDPM2DiscreteScheduler": "k_dpm_2_discrete",
        "KarrasVeScheduler": "karras_ve",
        "LCMScheduler": "lcm",
        "LMSDiscreteScheduler": "lms_discrete",
        "LTXEulerAncestralRFScheduler": "ltx_euler_ancestral_rf",
        "MiniMaxH3Scheduler": "minimax_h3",
        "PNDMScheduler": "pndm",
        "PiflowScheduler": "piflow",
        "RFD4ProteinaScheduler": "rfd4_proteina",
        "RePaintScheduler": "repaint",
        "SASolverScheduler": "sasolver",
        "SCMScheduler": "scm",
        "ScoreSdeVeScheduler": "score_sde_ve",
        "ScoreSdeVpScheduler": "score_sde_vp",
        "TCDScheduler": "tcd",
        "UnCLIPScheduler": "unclip",
        "UniPCMultistepScheduler": "unipc_multistep",
    }
)
"""Class -> the module here that defines it, imported when the class is first asked for."""


def scheduler_class(name: str) -> Any:
    """The scheduler class called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in CLASSES:
        raise unknown_name("scheduler class", name, CLASSES)
    try:
        return getattr(importlib.import_module(f"{__name__}.{CLASSES[name]}"), name)
    except ModuleNotFoundError as error:
        raise needs_torch(f"diffusolve.{name}", error) from error


def __getattr__(name: str) -> Any:
    """A scheduler class, or what else diffusers has in its package of the same name."""
    from diffusolve.schedulers.import_paths import MEMBERS, member

    if name in CLASSES:
        value = scheduler_class(name)
    elif name in MEMBERS["schedulers"]:
        value = member(*MEMBERS["schedulers"][name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
