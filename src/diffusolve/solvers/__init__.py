"""Solvers: each sampling algorithm once, as it stands in its paper, in scalar arithmetic."""

from diffusolve.solvers.deis import deis
from diffusolve.solvers.dpm_adaptive import dpm_adaptive
from diffusolve.solvers.dpm_fast import dpm_fast
from diffusolve.solvers.dpm_singlestep import dpm_singlestep, dpmpp_singlestep
from diffusolve.solvers.dpmpp_multistep import dpmpp_multistep
from diffusolve.solvers.dpmpp_sde import dpmpp_2s_ancestral, dpmpp_sde
from diffusolve.solvers.epd import epd
from diffusolve.solvers.er_sde import er_sde
from diffusolve.solvers.euler import euler
from diffusolve.solvers.flow_sde import flow_sde
from diffusolve.solvers.gradient_estimation import gradient_estimation
from diffusolve.solvers.heunpp import heunpp2
from diffusolve.solvers.ipndm import ipndm, ipndm_v
from diffusolve.solvers.lcm import lcm
from diffusolve.solvers.linear_multistep import lms
from diffusolve.solvers.pndm import pndm
from diffusolve.solvers.requests import ErrorRatio, Evaluate, Keep, Noise, Request, SolverRun, StepEnded, Value
from diffusolve.solvers.res_multistep import res_multistep
from diffusolve.solvers.res_singlestep import res_singlestep
from diffusolve.solvers.restart import restart
from diffusolve.solvers.sa_solver import sa_solver
from diffusolve.solvers.seeds import exp_heun_2_x0, seeds_2, seeds_3
from diffusolve.solvers.solver import Solver, solver
from diffusolve.solvers.tcd import tcd
from diffusolve.solvers.two_stage import dpm_2, heun
from diffusolve.solvers.ud10_ab import ud10_ab
from diffusolve.solvers.unipc import unipc

__all__ = [
    "SOLVERS",
    "ErrorRatio",
    "Evaluate",
    "Keep",
    "Noise",
    "Request",
    "Solver",
    "SolverRun",
    "StepEnded",
    "Value",
    "deis",
    "dpm_2",
    "dpm_adaptive",
    "dpm_fast",
    "dpm_singlestep",
    "dpmpp_2s_ancestral",
    "dpmpp_multistep",
    "dpmpp_sde",
    "dpmpp_singlestep",
    "epd",
    "er_sde",
    "euler",
    "exp_heun_2_x0",
    "flow_sde",
    "gradient_estimation",
    "heun",
    "heunpp2",
    "ipndm",
    "ipndm_v",
    "lcm",
    "lms",
    "pndm",
    "res_multistep",
    "res_singlestep",
    "restart",
    "sa_solver",
    "seeds_2",
    "seeds_3",
    "solver",
    "tcd",
    "ud10_ab",
    "unipc",
]

SOLVERS: dict[str, Solver] = {
    each.name: each
    for each in (
        euler,
        heun,
        heunpp2,
        dpm_2,
        lms,
        ipndm,
        ipndm_v,
        gradient_estimation,
        ud10_ab,
        deis,
        dpm_singlestep,
        dpmpp_singlestep,
        dpmpp_multistep,
        dpmpp_sde,
        dpmpp_2s_ancestral,
        res_multistep,
        res_singlestep,
        epd,
        er_sde,
        seeds_2,
        seeds_3,
        tcd,
        exp_heun_2_x0,
        sa_solver,
        flow_sde,
        unipc,
        pndm,
        restart,
        lcm,
        dpm_fast,
        dpm_adaptive,
    )
}
"""Name -> solver with its default options. The test suite walks this table."""
