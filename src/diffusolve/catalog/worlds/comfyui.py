"""ComfyUI, as measured on a copy of August 2026 (0.31); ``cfgpp_ud10_ab``, which is newer, on one of September.

Each option that is not a solver's default is what ComfyUI does there; docs/coming-from-comfyui.md says which of them
are slips, and how large.
"""

from __future__ import annotations

from math import exp, inf
from types import MappingProxyType

from diffusolve.catalog.worlds.world import World, WorldSampler, table
from diffusolve.noise import FlowMatching
from diffusolve.solvers import (
    deis,
    dpm_2,
    dpm_adaptive,
    dpm_fast,
    dpmpp_2s_ancestral,
    dpmpp_multistep,
    dpmpp_sde,
    er_sde,
    euler,
    exp_heun_2_x0,
    gradient_estimation,
    heun,
    heunpp2,
    ipndm,
    ipndm_v,
    lcm,
    lms,
    res_multistep,
    sa_solver,
    seeds_2,
    seeds_3,
    ud10_ab,
    unipc,
)
from diffusolve.spacing import (
    Beta,
    BongTangent,
    Exponential,
    Karras,
    KLOptimal,
    Leading,
    LinearQuadratic,
    Linspace,
    Simple,
)

__all__ = ["COMFYUI"]

ALONE = {"sigma_alone": True}
"""Steps in sigma as if alpha were 1, also on flow matching."""
AFTER = {"start_percent": 1e-4}
"""On flow matching the first step begins a little after pure noise."""

M2 = dpmpp_multistep.with_options(lower_order_final=False)
M2_SDE = M2.with_options(eta=1.0, **AFTER)
M3_SDE = M2_SDE.with_options(order=3, solver_type="heun", third_order="authors")
SDE = dpmpp_sde.with_options(noise="path", **AFTER)
ADAMS = sa_solver.with_options(lower_order_final=True, counts_last=False, longest_step=inf, window_at="end", **AFTER)
UNI_PC = unipc.with_options(order=3, end_sigma=2.0**-10, **ALONE)  # 0.001 in single precision

COMFYUI = World(
    name="comfyui",
    program="ComfyUI",
    samplers=table(
        WorldSampler("euler", "Euler", euler),
        WorldSampler("euler_cfg_pp", "Euler CFG++", euler.with_options(cfg_pp=True)),
        WorldSampler("euler_ancestral", "Euler a", euler.with_options(eta=1.0, ancestral="rectified")),
        WorldSampler("euler_ancestral_cfg_pp", "Euler a CFG++", euler.with_options(eta=1.0, cfg_pp=True)),
        WorldSampler("heun", "Heun", heun),
        WorldSampler("heunpp2", "Heun++ 2", heunpp2),
        WorldSampler("exp_heun_2_x0", "Exponential Heun", exp_heun_2_x0.with_options(**AFTER)),
        WorldSampler(
            "exp_heun_2_x0_sde", "Exponential Heun SDE", exp_heun_2_x0.with_options(eta=1.0, draws_twice=True, **AFTER)
        ),
        WorldSampler("dpm_2", "DPM2", dpm_2, discards=True),
        WorldSampler("dpm_2_ancestral", "DPM2 a", dpm_2.with_options(eta=1.0, ancestral="rectified"), discards=True),
        WorldSampler("lms", "LMS", lms.with_options(ends_with_data=True)),
        WorldSampler("dpm_fast", "DPM fast", dpm_fast.with_options(**ALONE), two_ends=True),
        WorldSampler("dpm_adaptive", "DPM adaptive", dpm_adaptive.with_options(**ALONE), two_ends=True),
        WorldSampler(
            "dpmpp_2s_ancestral",
            "DPM++ 2S a",
            dpmpp_2s_ancestral.with_options(ancestral="rectified", first_middle=0.9999),
        ),
        WorldSampler(
            "dpmpp_2s_ancestral_cfg_pp",
            "DPM++ 2S a CFG++",
            dpmpp_2s_ancestral.with_options(cfg_pp=True, latest_unguided=True, **ALONE),
        ),
        WorldSampler("dpmpp_sde", "DPM++ SDE", SDE, brownian=True),
        WorldSampler("dpmpp_sde_gpu", "DPM++ SDE", SDE, brownian=True),
        WorldSampler("dpmpp_2m", "DPM++ 2M", M2.with_options(**ALONE)),
        WorldSampler("dpmpp_2m_cfg_pp", "DPM++ 2M CFG++", M2.with_options(cfg_pp=True, unguided_past=True, **ALONE)),
        WorldSampler("dpmpp_2m_sde", "DPM++ 2M SDE", M2_SDE, brownian=True),
        WorldSampler("dpmpp_2m_sde_gpu", "DPM++ 2M SDE", M2_SDE, brownian=True),
        WorldSampler("dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun", M2_SDE.with_options(solver_type="heun"), brownian=True),
        WorldSampler(
            "dpmpp_2m_sde_heun_gpu", "DPM++ 2M SDE Heun", M2_SDE.with_options(solver_type="heun"), brownian=True
        ),
        WorldSampler("dpmpp_3m_sde", "DPM++ 3M SDE", M3_SDE, brownian=True),
        WorldSampler("dpmpp_3m_sde_gpu", "DPM++ 3M SDE", M3_SDE, brownian=True),
        WorldSampler("ddpm", "DDPM", euler.with_options(eta=1.0, **ALONE)),
        WorldSampler("lcm", "LCM", lcm),
        WorldSampler("ipndm", "iPNDM", ipndm),
        WorldSampler("ipndm_v", "iPNDM-v", ipndm_v.with_options(misplaced=True)),
        WorldSampler("deis", "DEIS", deis.with_options(polynomial="time", **ALONE)),
        WorldSampler("cfgpp_ud10_ab", "CFG++ UD10 AB", ud10_ab.with_options(cfg_pp=True, noise_weight=0.1)),
        WorldSampler("res_multistep", "RES multistep", res_multistep.with_options(**ALONE)),
        WorldSampler(
            "res_multistep_cfg_pp",
            "RES multistep CFG++",
            res_multistep.with_options(cfg_pp=True, unguided_past=True, **ALONE),
        ),
        WorldSampler("res_multistep_ancestral", "RES multistep a", res_multistep.with_options(eta=1.0, **ALONE)),
        WorldSampler(
            "res_multistep_ancestral_cfg_pp",
            "RES multistep a CFG++",
            res_multistep.with_options(eta=1.0, cfg_pp=True, unguided_past=True, **ALONE),
        ),
        WorldSampler("gradient_estimation", "Gradient estimation", gradient_estimation),
        WorldSampler(
            "gradient_estimation_cfg_pp",
            "Gradient estimation CFG++",
            gradient_estimation.with_options(cfg_pp=True, **ALONE),
        ),
        WorldSampler("er_sde", "ER-SDE", er_sde.with_options(third_order="authors", points=200, **AFTER)),
        WorldSampler("seeds_2", "SEEDS-2", seeds_2.with_options(**AFTER)),
        WorldSampler("seeds_3", "SEEDS-3", seeds_3.with_options(**AFTER)),
        WorldSampler("sa_solver", "SA-Solver", ADAMS),
        WorldSampler("sa_solver_pece", "SA-Solver PECE", ADAMS.with_options(use_pece=True)),
        WorldSampler("ddim", "DDIM", euler),
        WorldSampler("uni_pc", "UniPC", UNI_PC.with_options(variant="bh1"), discards=True),
        WorldSampler("uni_pc_bh2", "UniPC bh2", UNI_PC, discards=True),
    ),
    schedules=MappingProxyType(
        {
            "simple": Simple(),
            "sgm_uniform": Linspace(to_first=False, shifted_twice=True),
            "karras": Karras(),
            "exponential": Exponential(),
            "ddim_uniform": Leading(steps_offset=1, to_end=True),
            "beta": Beta(whole=True, distinct=True),
            "normal": Linspace(shifted_twice=True),
            "linear_quadratic": LinearQuadratic(everywhere=True),
            "kl_optimal": KLOptimal(),
            "beta57": Beta(alpha=0.5, beta=0.7, whole=True, distinct=True),  # RES4LYF's, as is the next
            "bong_tangent": BongTangent(),
        }
    ),
    default="normal",
    table_sizes=((FlowMatching(shift=exp(1.15)), 10_000),),  # Flux; for other sizes of image see TableSize
)
"""The world "comfyui"."""
