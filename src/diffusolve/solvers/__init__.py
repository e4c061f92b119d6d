"""Solvers: each sampling algorithm once, as it stands in its paper, in scalar arithmetic."""

from diffusolve.solvers.deis import deis
from diffusolve.solvers.dpm_adaptive import dpm_adaptive
from diffusolve.solvers.dpm_singlestep import dpm_singlestep, dpmpp_singlestep
from diffusolve.solvers.dpmpp_multistep import dpmpp_multistep
from diffusolve.solvers.dpmpp_sde import dpmpp_sde
from diffusolve.solvers.euler import euler
from diffusolve.solvers.linear_multistep import lms
from diffusolve.solvers.pndm import pndm
from diffusolve.solvers.requests import ErrorRatio, Evaluate, Keep, Noise, Request, SolverRun, StepEnded, Value
from diffusolve.solvers.solver import Solver, solver
from diffusolve.solvers.two_stage import dpm_2, heun
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
    "dpm_singlestep",
    "dpmpp_multistep",
    "dpmpp_sde",
    "dpmpp_singlestep",
    "euler",
    "heun",
    "lms",
    "pndm",
    "solver",
    "unipc",
]

SOLVERS: dict[str, Solver] = {
    made.name: made
    for made in (
        euler,
        heun,
        dpm_2,
        lms,
        deis,
        dpm_singlestep,
        dpmpp_singlestep,
        dpmpp_multistep,
        dpmpp_sde,
        unipc,
        pndm,
        dpm_adaptive,
    )
}
"""Name -> solver with its default options. The test suite walks this table."""
