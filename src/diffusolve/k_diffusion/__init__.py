"""k-diffusion's sampling functions and denoiser wrappers on this library's solvers, with the same names and arguments.

The modules :mod:`~diffusolve.k_diffusion.sampling`, :mod:`~diffusolve.k_diffusion.external` and
:mod:`~diffusolve.k_diffusion.utils` take the place of those of ``k_diffusion``, which :func:`install` lets other
programs' imports find. Not there: what is for training, and the class ``DPMSolver``, which :func:`sample_dpm_fast` and
:func:`sample_dpm_adaptive` stand for.
"""

from diffusolve.errors import needs_torch

try:
    from diffusolve.k_diffusion import external, sampling, utils
except ModuleNotFoundError as error:
    raise needs_torch("diffusolve.k_diffusion", error) from error
from diffusolve.k_diffusion.external import (
    CompVisDenoiser,
    CompVisVDenoiser,
    DiscreteEpsDDPMDenoiser,
    DiscreteSchedule,
    DiscreteVDDPMDenoiser,
    OpenAIDenoiser,
    VDenoiser,
)
from diffusolve.k_diffusion.replacement import install, uninstall
from diffusolve.k_diffusion.sampling import (
    BatchedBrownianTree,
    BrownianTreeNoiseSampler,
    PIDStepSizeController,
    append_zero,
    default_noise_sampler,
    get_ancestral_step,
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
    linear_multistep_coeff,
    log_likelihood,
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpm_adaptive,
    sample_dpm_fast,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    sample_lms,
    to_d,
)
from diffusolve.k_diffusion.utils import append_dims

__all__ = [
    "BatchedBrownianTree",
    "BrownianTreeNoiseSampler",
    "CompVisDenoiser",
    "CompVisVDenoiser",
    "DiscreteEpsDDPMDenoiser",
    "DiscreteSchedule",
    "DiscreteVDDPMDenoiser",
    "OpenAIDenoiser",
    "PIDStepSizeController",
    "VDenoiser",
    "append_dims",
    "append_zero",
    "default_noise_sampler",
    "external",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "install",
    "linear_multistep_coeff",
    "log_likelihood",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "sample_lms",
    "sampling",
    "to_d",
    "uninstall",
    "utils",
]
