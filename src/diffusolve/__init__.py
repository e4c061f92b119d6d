"""Diffusion samplers as tables of numbers.

A solver is written once, as its paper has it; compiling it over a noise schedule gives a plan, a table of coefficients;
running the plan is one linear combination per step.

>>> import diffusolve
>>> plan = diffusolve.sampler("DPM++ 2M Karras").plan(diffusolve.SD15, "epsilon", steps=20)
>>> plan.nfe
20
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffusolve import diffusers_bridge, schedulers
from diffusolve.errors import needs_torch
from diffusolve.schedulers import import_paths

if TYPE_CHECKING:
    from diffusolve import bulk as bulk
    from diffusolve import catalog as catalog
    from diffusolve import denoisers as denoisers
    from diffusolve import k_diffusion as k_diffusion
    from diffusolve import learning as learning
    from diffusolve import noise as noise
    from diffusolve import randomness as randomness
    from diffusolve import serving as serving
    from diffusolve import solvers as solvers
    from diffusolve import spacing as spacing
    from diffusolve.backends import Run as Run
    from diffusolve.backends.plan_module import PlanModule as PlanModule
    from diffusolve.batching import BatchRun as BatchRun
    from diffusolve.catalog import CATALOG as CATALOG
    from diffusolve.catalog import from_diffusers as from_diffusers
    from diffusolve.catalog import patch as patch
    from diffusolve.catalog import sampler as sampler
    from diffusolve.catalog import scheduler as scheduler
    from diffusolve.catalog import to_diffusers as to_diffusers
    from diffusolve.comparing import Comparison as Comparison
    from diffusolve.comparing import compare as compare
    from diffusolve.config import ConfigMixin as ConfigMixin
    from diffusolve.hub import PushToHubMixin as PushToHubMixin
    from diffusolve.learning import learn as learn
    from diffusolve.learning import learn_with_report as learn_with_report
    from diffusolve.learning.plan_scheduler import PlanScheduler as PlanScheduler
    from diffusolve.noise import EDM as EDM
    from diffusolve.noise import FLUX as FLUX
    from diffusolve.noise import NOISE_SCHEDULES as NOISE_SCHEDULES
    from diffusolve.noise import SD3 as SD3
    from diffusolve.noise import SD15 as SD15
    from diffusolve.noise import SDXL as SDXL
    from diffusolve.noise import Cosine as Cosine
    from diffusolve.noise import FlowMatching as FlowMatching
    from diffusolve.noise import Grid as Grid
    from diffusolve.noise import NoiseSchedule as NoiseSchedule
    from diffusolve.noise import Scaling as Scaling
    from diffusolve.noise import VarianceExploding as VarianceExploding
    from diffusolve.noise import VariancePreserving as VariancePreserving
    from diffusolve.noise import noise_schedule as noise_schedule
    from diffusolve.plan import Plan as Plan
    from diffusolve.randomness import CounterNoise as CounterNoise
    from diffusolve.sampling import Report as Report
    from diffusolve.sampling import Sampler as Sampler
    from diffusolve.sampling import sample as sample
    from diffusolve.sampling import sample_with_report as sample_with_report
    from diffusolve.sampling import start as start
    from diffusolve.schedulers.cm_stochastic_iterative import (
        CMStochasticIterativeScheduler as CMStochasticIterativeScheduler,
    )
    from diffusolve.schedulers.cogvideox_ddim import CogVideoXDDIMScheduler as CogVideoXDDIMScheduler
    from diffusolve.schedulers.cogvideox_dpm import CogVideoXDPMScheduler as CogVideoXDPMScheduler
    from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers as KarrasDiffusionSchedulers
    from diffusolve.schedulers.consistency_decoder import ConsistencyDecoderScheduler as ConsistencyDecoderScheduler
    from diffusolve.schedulers.cosine_dpmsolver_multistep import (
        CosineDPMSolverMultistepScheduler as CosineDPMSolverMultistepScheduler,
    )
    from diffusolve.schedulers.ddim import DDIMScheduler as DDIMScheduler
    from diffusolve.schedulers.ddim_inverse import DDIMInverseScheduler as DDIMInverseScheduler
    from diffusolve.schedulers.ddim_parallel import DDIMParallelScheduler as DDIMParallelScheduler
    from diffusolve.schedulers.ddpm import DDPMScheduler as DDPMScheduler
    from diffusolve.schedulers.ddpm_parallel import DDPMParallelScheduler as DDPMParallelScheduler
    from diffusolve.schedulers.ddpm_wuerstchen import DDPMWuerstchenScheduler as DDPMWuerstchenScheduler
    from diffusolve.schedulers.deis_multistep import DEISMultistepScheduler as DEISMultistepScheduler
    from diffusolve.schedulers.dpmsolver_fast import DPMSolverFastScheduler as DPMSolverFastScheduler
    from diffusolve.schedulers.dpmsolver_multistep import DPMSolverMultistepScheduler as DPMSolverMultistepScheduler
    from diffusolve.schedulers.dpmsolver_multistep_inverse import (
        DPMSolverMultistepInverseScheduler as DPMSolverMultistepInverseScheduler,
    )
    from diffusolve.schedulers.dpmsolver_sde import DPMSolverSDEScheduler as DPMSolverSDEScheduler
    from diffusolve.schedulers.dpmsolver_singlestep import DPMSolverSinglestepScheduler as DPMSolverSinglestepScheduler
    from diffusolve.schedulers.dpmsolver_singlestep_ancestral import (
        DPMSolverSinglestepAncestralScheduler as DPMSolverSinglestepAncestralScheduler,
    )
    from diffusolve.schedulers.edm_dpmsolver_multistep import (
        EDMDPMSolverMultistepScheduler as EDMDPMSolverMultistepScheduler,
    )
    from diffusolve.schedulers.edm_euler import EDMEulerScheduler as EDMEulerScheduler
    from diffusolve.schedulers.euler_ancestral_discrete import (
        EulerAncestralDiscreteScheduler as EulerAncestralDiscreteScheduler,
    )
    from diffusolve.schedulers.euler_discrete import EulerDiscreteScheduler as EulerDiscreteScheduler
    from diffusolve.schedulers.flow_map_euler_discrete import (
        FlowMapEulerDiscreteScheduler as FlowMapEulerDiscreteScheduler,
    )
    from diffusolve.schedulers.flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler as FlowMatchEulerDiscreteScheduler,
    )
    from diffusolve.schedulers.flow_match_heun_discrete import (
        FlowMatchHeunDiscreteScheduler as FlowMatchHeunDiscreteScheduler,
    )
    from diffusolve.schedulers.flow_match_lcm import FlowMatchLCMScheduler as FlowMatchLCMScheduler
    from diffusolve.schedulers.flow_match_sde_discrete import (
        FlowMatchSDEDiscreteScheduler as FlowMatchSDEDiscreteScheduler,
    )
    from diffusolve.schedulers.helios import HeliosScheduler as HeliosScheduler
    from diffusolve.schedulers.helios_dmd import HeliosDMDScheduler as HeliosDMDScheduler
    from diffusolve.schedulers.heun_discrete import HeunDiscreteScheduler as HeunDiscreteScheduler
    from diffusolve.schedulers.ipndm import IPNDMScheduler as IPNDMScheduler
    from diffusolve.schedulers.k_dpm_2_ancestral_discrete import (
        KDPM2AncestralDiscreteScheduler as KDPM2AncestralDiscreteScheduler,
    )
    from diffusolve.schedulers.k_dpm_2_discrete import KDPM2DiscreteScheduler as KDPM2DiscreteScheduler
    from diffusolve.schedulers.karras_ve import KarrasVeScheduler as KarrasVeScheduler
    from diffusolve.schedulers.lcm import LCMScheduler as LCMScheduler
    from diffusolve.schedulers.lms_discrete import LMSDiscreteScheduler as LMSDiscreteScheduler
    from diffusolve.schedulers.ltx_euler_ancestral_rf import (
        LTXEulerAncestralRFScheduler as LTXEulerAncestralRFScheduler,
    )
    from diffusolve.schedulers.minimax_h3 import MiniMaxH3Scheduler as MiniMaxH3Scheduler
    from diffusolve.schedulers.mixin import SchedulerMixin as SchedulerMixin
    from diffusolve.schedulers.outputs import SchedulerOutput as SchedulerOutput
    from diffusolve.schedulers.piflow import PiflowScheduler as PiflowScheduler
    from diffusolve.schedulers.pndm import PNDMScheduler as PNDMScheduler
    from diffusolve.schedulers.repaint import RePaintScheduler as RePaintScheduler
    from diffusolve.schedulers.rfd4_proteina import RFD4ProteinaScheduler as RFD4ProteinaScheduler
    from diffusolve.schedulers.sasolver import SASolverScheduler as SASolverScheduler
    from diffusolve.schedulers.scm import SCMScheduler as SCMScheduler
    from diffusolve.schedulers.score_sde_ve import ScoreSdeVeScheduler as ScoreSdeVeScheduler
    from diffusolve.schedulers.score_sde_vp import ScoreSdeVpScheduler as ScoreSdeVpScheduler
    from diffusolve.schedulers.tcd import TCDScheduler as TCDScheduler
    from diffusolve.schedulers.unclip import UnCLIPScheduler as UnCLIPScheduler
    from diffusolve.schedulers.unipc_multistep import UniPCMultistepScheduler as UniPCMultistepScheduler
    from diffusolve.tokens.amused import AmusedScheduler as AmusedScheduler
    from diffusolve.tokens.block_refinement import BlockRefinementScheduler as BlockRefinementScheduler
    from diffusolve.tokens.discrete_ddim import DiscreteDDIMScheduler as DiscreteDDIMScheduler
    from diffusolve.tokens.entropy_bound import EntropyBoundScheduler as EntropyBoundScheduler
    from diffusolve.tokens.vq_diffusion import VQDiffusionScheduler as VQDiffusionScheduler

__version__ = "0.1.0.dev0"

# Attribute -> module, imported when first asked for: `import diffusolve` itself costs nothing.
_HOME = {
    **{name: f"schedulers.{module}" for name, module in schedulers.CLASSES.items()},
    "BatchRun": "batching",
    "AmusedScheduler": "tokens.amused",
    "BlockRefinementScheduler": "tokens.block_refinement",
    "DiscreteDDIMScheduler": "tokens.discrete_ddim",
    "EntropyBoundScheduler": "tokens.entropy_bound",
    "VQDiffusionScheduler": "tokens.vq_diffusion",
    "CATALOG": "catalog",
    "Comparison": "comparing",
    "ConfigMixin": "config",
    "Cosine": "noise",
    "CounterNoise": "randomness",
    "EDM": "noise",
    "FLUX": "noise",
    "FlowMatching": "noise",
    "Grid": "noise",
    "KarrasDiffusionSchedulers": "schedulers.compatible",
    "NOISE_SCHEDULES": "noise",
    "NoiseSchedule": "noise",
    "Plan": "plan",
    "PlanModule": "backends.plan_module",
    "PlanScheduler": "learning.plan_scheduler",
    "PushToHubMixin": "hub",
    "Report": "sampling",
    "Run": "backends",
    "SD15": "noise",
    "SD3": "noise",
    "SDXL": "noise",
    "SchedulerMixin": "schedulers.mixin",
    "SchedulerOutput": "schedulers.outputs",
    "Sampler": "sampling",
    "Scaling": "noise",
    "VarianceExploding": "noise",
    "VariancePreserving": "noise",
    "sample": "sampling",
    "sample_with_report": "sampling",
    "compare": "comparing",
    "from_diffusers": "catalog",
    "learn": "learning",
    "learn_with_report": "learning",
    "noise_schedule": "noise",
    "patch": "catalog",
    "sampler": "catalog",
    "scheduler": "catalog",
    "to_diffusers": "catalog",
    "start": "sampling",
}

import_paths.watch(_HOME)
diffusers_bridge.watch(import_paths.in_both())

_ROOMS = (
    "bulk",
    "catalog",
    "denoisers",
    "k_diffusion",
    "learning",
    "noise",
    "randomness",
    "serving",
    "solvers",
    "spacing",
)
"""Parts of the package that are public as they are."""

__all__ = ["__version__", *sorted((*_HOME, *_ROOMS))]


if not TYPE_CHECKING:  # a type checker takes the names above for all there are, and finds misspelt ones

    def __getattr__(name: str) -> Any:
        if name not in _HOME and name not in _ROOMS:
            from difflib import get_close_matches

            close = get_close_matches(name, __all__)
            hint = f": did you mean {', '.join(map(repr, close))}?" if close else ""
            # With a name and no object Python adds no hint of its own to an uncaught error.
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name)
        try:
            module = importlib.import_module(f"{__name__}.{_HOME.get(name, name)}")
        except ModuleNotFoundError as error:
            raise needs_torch(f"diffusolve.{name}", error) from error
        value = module if name in _ROOMS else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
