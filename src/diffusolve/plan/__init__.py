"""Plans: solvers compiled to tables of coefficients."""

from diffusolve.plan.combination import Combination
from diffusolve.plan.made_for import WIDEST_SHIFT, check_made_for, check_noise_schedule, check_prediction
from diffusolve.plan.plan import OUTPUT, UNGUIDED, NoiseTerm, Plan, PlanPoint, Stage, Update, Write
from diffusolve.plan.trace import check_plannable, check_scaling, plan_for, trace
from diffusolve.plan.transition import WITH_DENSITY, Transition, noise_in, put_in, share_of

__all__ = [
    "OUTPUT",
    "UNGUIDED",
    "WIDEST_SHIFT",
    "WITH_DENSITY",
    "Combination",
    "NoiseTerm",
    "Plan",
    "PlanPoint",
    "Stage",
    "Transition",
    "Update",
    "Write",
    "check_made_for",
    "check_noise_schedule",
    "check_plannable",
    "check_prediction",
    "check_scaling",
    "noise_in",
    "plan_for",
    "put_in",
    "share_of",
    "trace",
]
