"""Plans: solvers compiled to tables of coefficients."""

from diffusolve.plan.combination import Combination
from diffusolve.plan.plan import OUTPUT, UNGUIDED, NoiseTerm, Plan, PlanPoint, Stage, Update, Write
from diffusolve.plan.trace import check_plannable, check_scaling, plan_for, trace

__all__ = [
    "OUTPUT",
    "UNGUIDED",
    "Combination",
    "NoiseTerm",
    "Plan",
    "PlanPoint",
    "Stage",
    "Update",
    "Write",
    "check_plannable",
    "check_scaling",
    "plan_for",
    "trace",
]
