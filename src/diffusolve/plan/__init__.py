"""Plans: solvers compiled to tables of coefficients."""

from diffusolve.plan.combination import Combination
from diffusolve.plan.plan import OUTPUT, UNGUIDED, NoiseTerm, Plan, PlanPoint, Stage, Update, Write
from diffusolve.plan.trace import check_plannable, check_scaling, plan_for, trace
from diffusolve.plan.transition import WITH_DENSITY, Transition, noise_in, share_of

__all__ = [
    "OUTPUT",
    "UNGUIDED",
    "WITH_DENSITY",
    "Combination",
    "NoiseTerm",
    "Plan",
    "PlanPoint",
    "Stage",
    "Transition",
    "Update",
    "Write",
    "check_plannable",
    "check_scaling",
    "noise_in",
    "plan_for",
    "share_of",
    "trace",
]
