"""Solvers: each sampling algorithm once, as it stands in its paper, in scalar arithmetic."""

from diffusolve.solvers.dpm_adaptive import dpm_adaptive
from diffusolve.solvers.dpmpp_multistep import dpmpp_multistep
from diffusolve.solvers.dpmpp_sde import dpmpp_sde
from diffusolve.solvers.euler import euler
from diffusolve.solvers.linear_multistep import lms
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
    "dpm_2",
    "dpm_adaptive",
    "dpmpp_multistep",
    "dpmpp_sde",
    "euler",
    "heun",
    "lms",
    "solver",
    "unipc",
]

SOLVERS: dict[str, Solver] = {
    made.name: made for made in (euler, heun, dpm_2, lms, dpmpp_multistep, dpmpp_sde, unipc, dpm_adaptive)
}
"""Name -> solver with its default options. The test suite walks this table."""
