"""The words that keys of several scheduler classes may be, for type checkers and for the rules of keys (`keys.py`)."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = [
    "AlgorithmType",
    "BetaSchedule",
    "FinalSigmasType",
    "PredictionType",
    "PredictionTypeOrFlow",
    "SigmaSchedule",
    "SolverType",
    "TimeShiftType",
    "TimestepSpacing",
    "UniPCSolverType",
    "VarianceType",
]

AlgorithmType: TypeAlias = Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"]
BetaSchedule: TypeAlias = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
FinalSigmasType: TypeAlias = Literal["zero", "sigma_min"]
PredictionType: TypeAlias = Literal["epsilon", "sample", "v_prediction"]
PredictionTypeOrFlow: TypeAlias = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
SigmaSchedule: TypeAlias = Literal["karras", "exponential"]
SolverType: TypeAlias = Literal["midpoint", "heun"]
TimeShiftType: TypeAlias = Literal["exponential", "linear"]
TimestepSpacing: TypeAlias = Literal["linspace", "leading", "trailing"]
UniPCSolverType: TypeAlias = Literal["bh1", "bh2"]
VarianceType: TypeAlias = Literal[
    "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"
]
