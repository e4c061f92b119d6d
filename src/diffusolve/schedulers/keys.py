"""Every configuration key of every scheduler class: its type, its range or choices, and whether it may be None.

Configurations are checked against this table whenever they are made or written to; what no single key can say, as that
two of them exclude each other, is checked by the classes. Ranges are as wide as steps are finite in single precision.
Keys that a class does not know are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import inf
from typing import Any, get_args

from diffusolve.config import config_keys
from diffusolve.config.mixin import REGISTERS
from diffusolve.config.rules import LARGEST, Flag, Number, Numbers, OneOf, Rule, Whole, With
from diffusolve.noise.schedule import MOST_TIMESTEPS
from diffusolve.schedulers import words
from diffusolve.schedulers.flow_config import FLOW_KEYS, FLOW_STEPS
from diffusolve.solvers.flow_sde import DISCRETIZATIONS, SDES
from diffusolve.spacing.flow import TIME_SHIFT_TYPES

__all__ = ["IN_CLASS", "KEYS", "UPSCALE_MODES", "kept_values", "rules_of"]

UPSCALE_MODES = ("nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact")
BETAS = get_args(words.BetaSchedule)
PREDICTIONS = get_args(words.PredictionType)
DPM_SOLVERS = get_args(words.AlgorithmType)

LEAST, MOST = 1e-9, 1e9
"""The range of numbers that are above 0: their squares have a place in single precision."""

COUNT = Whole(1, MOST_TIMESTEPS)
SHARE = Number(0, 1)
POSITIVE = Number(LEAST, MOST)
NOT_NEGATIVE = Number(0, MOST)
ANY = Number(-MOST, MOST)
FLAG = Flag()
SHIFT = Number(-MOST, MOST, none=True)
TOKENS = Whole(1, none=True)

KEYS: Mapping[str, Rule] = {
    "algorithm_type": OneOf(DPM_SOLVERS, {"deis": "dpmsolver++"}),
    "alpha_cum_end": SHARE,
    "alpha_cum_start": SHARE,
    "base_image_seq_len": TOKENS,
    "base_shift": SHIFT,
    "beta_end": NOT_NEGATIVE,
    "beta_max": NOT_NEGATIVE,
    "beta_min": NOT_NEGATIVE,
    "beta_schedule": OneOf(BETAS),
    "beta_start": NOT_NEGATIVE,
    "block_length": COUNT,
    "clip_denoised": FLAG,
    "clip_sample": FLAG,
    "clip_sample_range": Number(0, inf),
    "correct_steps": Whole(0, MOST_TIMESTEPS),
    "corrector_k": COUNT,
    "corrector_order": Whole(1, 4),
    "corrector_selection": OneOf(("lowest_log_margin", "lowest_maxprob", "lowest_current_prob", "random")),
    "corrector_selection_tau": POSITIVE,
    "corrector_steps": Whole(0, MOST_TIMESTEPS),
    "disable_corrector": Numbers(Whole(0, MOST_TIMESTEPS)),
    "discretization": OneOf(DISCRETIZATIONS),
    "dynamic_thresholding_ratio": SHARE,
    "editing_threshold": Number(none=True),
    "entropy_bound": Number(),
    "eps": Number(LEAST, 0.999),
    "eta": SHARE,
    "euler_at_final": FLAG,
    "final_sigmas_type": OneOf(get_args(words.FinalSigmasType)),
    "final_step_size_scale": POSITIVE,
    "flow_shift": Number(1e-4, 1e4, none=True),
    "gamma": POSITIVE,
    "gamma_cum_end": SHARE,
    "gamma_cum_start": SHARE,
    "interpolation_type": OneOf(("linear", "log_linear")),
    "invert_sigmas": FLAG,
    "lambda_min_clipped": Number(-inf, inf),
    "lower_order_final": FLAG,
    "mask_token_id": Whole(-LARGEST),
    "masking_schedule": OneOf(("cosine", "linear")),
    "max_image_seq_len": TOKENS,
    "max_shift": SHIFT,
    "minimal_topk": Whole(0),
    "n_grid": Whole(1, 10_000),
    "noise_level": NOT_NEGATIVE,
    "noise_mode": OneOf(("1/t", "tan")),
    "noise_sampler_seed": Numbers(Whole(0, 2**64 - 1), single=True, none=True),
    "num_inference_steps": COUNT,
    "num_policy_substeps": Whole(1, 100_000),
    "num_train_timesteps": COUNT,
    "num_vec_classes": Whole(2, 100_000),
    "original_inference_steps": COUNT,
    "predict_x0": FLAG,
    "prediction_type": OneOf(PREDICTIONS),
    "predictor_order": Whole(1, 4),
    "rescale_betas_zero_snr": FLAG,
    "rho": Number(0.5, 1000),
    "s": NOT_NEGATIVE,
    "s_churn": NOT_NEGATIVE,
    "s_max": Number(0, inf),
    "s_min": NOT_NEGATIVE,
    "s_noise": NOT_NEGATIVE,
    "sample_max_value": Number(LEAST, inf),
    "sampling_eps": SHARE,
    "scale_factors": Numbers(POSITIVE, none=True),
    "scaler": POSITIVE,
    "schedule_mode": OneOf(("log", "power")),
    "scheduler_type": OneOf(("unipc", "euler")),
    "sde": OneOf(tuple(SDES)),
    "set_alpha_to_one": FLAG,
    "shift": Number(1e-4, 1e4),
    "shift_terminal": Number(LEAST, 0.999, none=True),
    "sigma_data": POSITIVE,
    "sigma_max": Number(LEAST, MOST, none=True),
    "sigma_min": Number(LEAST, MOST, none=True),
    "sigma_schedule": OneOf(get_args(words.SigmaSchedule)),
    "skip_prk_steps": FLAG,
    "snr": NOT_NEGATIVE,
    "snr_shift_scale": POSITIVE,
    "solver_order": Whole(1, 100),
    "solver_p": With("step", none=True),
    "solver_type": OneOf(get_args(words.SolverType), dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint")),
    "stage_range": Numbers(SHARE, least=2),
    "stages": Whole(1, 100),
    "steps_offset": Whole(0, MOST_TIMESTEPS),
    "stochastic_sampling": FLAG,
    "t_lim_ode": ANY,
    "t_lim_ode_below": ANY,
    "t_max": NOT_NEGATIVE,
    "t_min": NOT_NEGATIVE,
    "tail_step_multiplier": Whole(1, 1000),
    "tail_steps": Whole(0, 1000),
    "tau_func": With("__call__", none=True),
    "threshold": Number(),
    "thresholding": FLAG,
    "time_shift_type": OneOf(TIME_SHIFT_TYPES, none=True),
    "timestep_scaling": NOT_NEGATIVE,
    "timestep_spacing": OneOf(get_args(words.TimestepSpacing)),
    "timestep_type": OneOf(("discrete", "continuous")),
    "trained_betas": Numbers(SHARE, least=1, most=MOST_TIMESTEPS, none=True),
    "tsr_k": Number(0.001, 1000),
    "tsr_sigma": Number(0.001, 1000),
    "upscale_mode": OneOf(UPSCALE_MODES),
    "use_beta_sigmas": FLAG,
    "use_dynamic_shifting": FLAG,
    "use_exponential_sigmas": FLAG,
    "use_flow_sigmas": FLAG,
    "use_karras_sigmas": FLAG,
    "use_lu_lambdas": FLAG,
    "variance_type": OneOf(get_args(words.VarianceType), none=True),
}
"""Key -> what it may be, unless :data:`IN_CLASS` says otherwise."""

WITH_FLOW = OneOf(get_args(words.PredictionTypeOrFlow))
SIGMA = Number(LEAST, MOST)

IN_CLASS: Mapping[str, Mapping[str, Rule]] = {
    "CMStochasticIterativeScheduler": {"sigma_max": SIGMA, "sigma_min": SIGMA},
    "DDPMScheduler": {"beta_schedule": OneOf((*BETAS, "sigmoid", "laplace"))},
    "DEISMultistepScheduler": {
        "algorithm_type": OneOf(("deis",), dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis")),
        "solver_type": OneOf(("logrho",), dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho")),
    },
    "DPMSolverFastScheduler": {"eta": NOT_NEGATIVE},
    "DPMSolverSinglestepScheduler": {
        "algorithm_type": OneOf(DPM_SOLVERS[:3], {"deis": "dpmsolver++"}),
        "solver_order": Whole(1, 3),
    },
    "EDMDPMSolverMultistepScheduler": {
        "algorithm_type": OneOf(("dpmsolver++", "sde-dpmsolver++")),
    },
    "EDMScheduler": {"sigma_max": SIGMA, "sigma_min": SIGMA, "solver_type": OneOf(get_args(words.SolverType))},
    "EulerDiscreteScheduler": {"prediction_type": OneOf((*WITH_FLOW.choices, "original_sample"))},
    "HeliosScheduler": {"solver_type": OneOf(get_args(words.UniPCSolverType))},
    "HeunDiscreteScheduler": {"beta_schedule": OneOf((*BETAS, "exp"))},
    "IPNDMScheduler": {"trained_betas": Numbers(SHARE, least=2, most=MOST_TIMESTEPS, none=True)},
    "KarrasVeScheduler": {"sigma_max": SIGMA, "sigma_min": SIGMA},
    "LogSNRScheduler": {"prediction_type": WITH_FLOW},
    "PNDMScheduler": {"prediction_type": OneOf(("epsilon", "v_prediction"))},
    "PyramidScheduler": {"prediction_type": WITH_FLOW},
    "RePaintScheduler": {"beta_schedule": OneOf((*BETAS, "sigmoid"))},
    "SASolverScheduler": {"algorithm_type": OneOf(("data_prediction", "noise_prediction"))},
    "SCMScheduler": {"prediction_type": OneOf((*WITH_FLOW.choices, "trigflow"))},
    "ScoreSdeVeScheduler": {"sigma_max": SIGMA, "sigma_min": SIGMA},
    "SigmaScheduler": {"prediction_type": WITH_FLOW},
    "UnCLIPScheduler": {
        "beta_schedule": OneOf(("squaredcos_cap_v2",)),
        "clip_sample_range": Number(0, inf, none=True),
        "prediction_type": OneOf(("epsilon", "sample")),
        "variance_type": OneOf(("fixed_small_log", "learned_range")),
    },
    "UniPCMultistepScheduler": {
        "solver_type": OneOf(get_args(words.UniPCSolverType), dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")),
    },
}
"""Class, or base of classes -> what its keys may be where that is not :data:`KEYS`."""


@lru_cache(maxsize=256)
def rules_of(cls: type) -> Mapping[str, Rule]:
    """The rules for the keys of a scheduler class of this library, or of the one that a user's class derives from."""
    lineage = [base for base in cls.__mro__ if base.__module__.startswith("diffusolve.")]
    own = next((base for base in lineage if hasattr(vars(base).get("__init__"), REGISTERS)), None)
    if own is None:
        return {}
    rules = {key: KEYS[key] for key in config_keys(own) if key in KEYS}
    for base in reversed(lineage):
        rules |= {key: rule for key, rule in IN_CLASS.get(base.__name__, {}).items() if key in rules}
    return rules


def kept_values(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` for keys of a class as its configuration keeps them.

    Raises:
        TypeError, ValueError, UnknownNameError: one is not what its key may be; the message names the key.
    """
    rules = {**rules_of(cls), FLOW_STEPS: FLAG}
    if values.get("prediction_type") == "flow_prediction":
        rules = {**{key: KEYS[key] for key in FLOW_KEYS}, **rules}
    if values.get("trained_betas") is not None:  # which take the place of a named schedule
        rules = {key: rule for key, rule in rules.items() if key != "beta_schedule"}
    return {key: rules[key].kept(key, value) if key in rules else value for key, value in values.items()}
