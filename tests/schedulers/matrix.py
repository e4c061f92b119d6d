"""A parity matrix for every scheduler class that diffusolve and diffusers both have.

A class is a row of :data:`ROWS`: its options with the values that are tried (each on its own, and a seeded sample of
pairs), how ``set_timesteps`` and ``step`` may be called, and the loop that its users write. :func:`check_class` runs
the row with both libraries and says what differs; it never copies what a class should do, it only watches::

    assert check_class("FlowMatchEulerDiscreteScheduler") == []

A part of a case in which the reference raises, or returns what is not finite, is not compared: there ours is free to
do better.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from tests.parity.network import SHAPE, StandInNetwork, standard_noise

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

__all__ = ["ROWS", "Row", "check_class", "check_constructor", "in_library"]

WITHIN = 1e-4
"""The largest relative error of any value in float32."""

TIMESTEPS_WITHIN = 1e-6
"""The largest error of a timestep, in units of the largest."""

Seen = Iterator[tuple[str, Any]]
"""What is seen of a scheduler, one labelled value after the other."""


@dataclass(frozen=True)
class Setting:
    """How a run of a case is called.

    Attributes:
        run: keyword arguments of ``set_timesteps``.
        step: further keyword arguments of ``step``.
        network: predicts from (sample, timestep).
        noise: standard normal, in the shape of the class's samples.
        data: likewise, a third as large.
    """

    run: Mapping[str, Any]
    step: Mapping[str, Any]
    network: Callable[[Tensor, Any], Tensor]
    noise: Tensor
    data: Tensor

    def generator(self, step: Callable[..., Any]) -> dict[str, torch.Generator]:
        """The argument that a method draws its noise from, if it takes one."""
        takes = "generator" in inspect.signature(step).parameters and "variance_noise" not in self.step
        return {"generator": torch.Generator().manual_seed(5)} if takes else {}


# ---- Loops, as users write them ----


def fields(result: Any) -> dict[str, Any]:
    """The entries of an output: by name, or by place in a tuple."""
    if isinstance(result, tuple):
        return {str(place): value for place, value in enumerate(result)}
    return {str(key): result[key] for key in result.keys()}  # noqa: SIM118 - outputs promise keys()


def denoise(scheduler: Any, setting: Setting, first: int = 0, x: Tensor | None = None, **options: Any) -> Seen:
    """The common loop, from noise (or from x at a later place) to data."""
    if x is None:
        x = setting.noise * getattr(scheduler, "init_noise_sigma", 1.0)
    options = {**setting.generator(scheduler.step), **setting.step, **options}
    for place, t in enumerate(scheduler.timesteps[first:]):
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        result = scheduler.step(setting.network(seen, t), t, x, **options)
        entries = fields(result)
        yield f"step {place}", entries
        x = next(iter(entries.values()))


def with_plain_tuples(scheduler: Any, setting: Setting) -> Seen:
    """The common loop with ``return_dict=False``."""
    return denoise(scheduler, setting, return_dict=False)


def all_but_the_last(scheduler: Any, setting: Setting) -> Seen:
    """The loop of classes whose last timestep is where the last step ends."""
    x, options = setting.noise, setting.generator(scheduler.step)
    for place, t in enumerate(scheduler.timesteps[:-1]):
        entries = fields(scheduler.step(setting.network(x, t), t, x, **options))
        yield f"step {place}", entries
        x = entries["prev_sample"]


def ratios(scheduler: Any, setting: Setting) -> Seen:
    """Wuerstchen's loop: a timestep for each sample, none asked for after the last."""
    x, options = setting.noise, {**setting.generator(scheduler.step), **setting.step}
    for place, t in enumerate(scheduler.timesteps[:-1]):
        ratio = t.expand(len(x))
        entries = fields(scheduler.step(setting.network(x, t), timestep=ratio, sample=x, **options))
        yield f"step {place}", entries
        x = entries["prev_sample"]


def history_with_caller(scheduler: Any, setting: Setting) -> Seen:
    """CogVideoX's loop: the prediction before is handed back, with its timestep."""
    x, before, options = (setting.noise, None, {**setting.generator(scheduler.step), **setting.step})
    timesteps = scheduler.timesteps
    for place, t in enumerate(timesteps):
        seen = scheduler.scale_model_input(x, t)
        back = timesteps[place - 1] if place else None
        result = scheduler.step(setting.network(seen, t), before, t, back, x, **options)
        yield f"step {place}", fields(result)
        x, before = result[0], result[1]


def from_timestep_to_timestep(scheduler: Any, setting: Setting) -> Seen:
    """unCLIP's loop: the timestep after is told, since the tables are made for it."""
    x, timesteps = setting.noise, scheduler.timesteps
    options = {**setting.generator(scheduler.step), **setting.step}
    for place, t in enumerate(timesteps):
        later = timesteps[place + 1] if place + 1 < len(timesteps) else None
        entries = fields(scheduler.step(setting.network(x, t), t, x, prev_timestep=later, **options))
        yield f"step {place}", entries
        x = entries["prev_sample"]


def two_times(scheduler: Any, setting: Setting) -> Seen:
    """A flow map's loop: both ends of a step are told, then an interval that is none of the schedule's."""
    x, timesteps = setting.noise, [*scheduler.timesteps, torch.zeros(())]
    for place, (t, r) in enumerate(pairwise(timesteps)):
        entries = fields(scheduler.step(setting.network(x, t), t, x, r_timestep=r, **setting.step))
        yield f"step {place}", entries
        x = entries["prev_sample"]
    t = timesteps[0]
    yield ("off the schedule", fields(scheduler.step(setting.network(x, t), t, x, r_timestep=123.0)))


def predict_and_correct(scheduler: Any, setting: Setting) -> Seen:
    """The loop of the variance exploding SDE: corrections, then a prediction."""
    steps = int(setting.run["num_inference_steps"])
    scheduler.set_sigmas(steps)
    yield "sigmas of set_sigmas", scheduler.sigmas
    yield "discrete sigmas", scheduler.discrete_sigmas
    x = setting.noise * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(5)
    for place, t in enumerate(scheduler.timesteps):
        score = -setting.network(x, t) / scheduler.sigmas[place]
        x = scheduler.step_correct(score, x, generator=generator).prev_sample
        yield f"corrected {place}", x
        score = -setting.network(x, t) / scheduler.sigmas[place]
        entries = fields(scheduler.step_pred(score, t, x, generator=generator))
        yield f"step {place}", entries
        x = entries["prev_sample"]


def scores(scheduler: Any, setting: Setting) -> Seen:
    """The loop of the variance preserving SDE."""
    x, generator = setting.noise, torch.Generator().manual_seed(5)
    for place, t in enumerate(scheduler.timesteps):
        x, mean = scheduler.step_pred(setting.network(x, t), x, t.expand(len(x)), generator=generator)
        yield f"step {place}", {"x": x, "mean": mean}


def churn_and_correct(scheduler: Any, setting: Setting) -> Seen:
    """The stochastic sampler of Karras et al. in three calls."""
    x, generator = (setting.noise * scheduler.init_noise_sigma, torch.Generator().manual_seed(5))
    yield "schedule", scheduler.schedule
    for t in scheduler.timesteps:
        sigma = scheduler.schedule[t]
        sigma_prev = scheduler.schedule[t - 1] if t > 0 else 0
        x_hat, sigma_hat = scheduler.add_noise_to_input(x, sigma, generator=generator)
        output = scheduler.step(setting.network(x_hat / 2, t), sigma_hat, sigma_prev, x_hat)
        yield f"step {t}", fields(output)
        if sigma_prev != 0:
            predicted = setting.network(output["prev_sample"] / 2, t)
            output = scheduler.step_correct(
                predicted, sigma_hat, sigma_prev, x_hat, output["prev_sample"], output["derivative"]
            )
            yield f"corrected {t}", fields(output)
        x = output["prev_sample"]


def repaint(scheduler: Any, setting: Setting) -> Seen:
    """Inpainting that jumps back: a timestep that rises asks for noise."""
    mask = (torch.arange(setting.noise[0].numel()).reshape(setting.noise[0].shape) % 3 > 0).float()[None]
    scheduler.eta = float(setting.step.get("eta", 0.0))
    x, last, generator = (setting.noise, int(scheduler.timesteps[0]) + 1, torch.Generator().manual_seed(5))
    for place, t in enumerate(scheduler.timesteps):
        if t < last:
            output = setting.network(x, t)
            entries = fields(scheduler.step(output, t, x, setting.data, mask, generator=generator))
            yield f"step {place}", entries
            x = entries["prev_sample"]
        else:
            x = scheduler.undo_step(x, last, generator)
            yield f"undone {place}", x
        last = int(t)


def tokens_kept(scheduler: Any, setting: Setting) -> Seen:
    """A protein's tokens, of which some are given: only those of the mask move."""
    x = setting.noise.flatten(2)
    mask = (torch.arange(x.shape[1]) % 4 != 1).expand(x.shape[:2])
    generator = [torch.Generator().manual_seed(seed) for seed in range(len(x))]
    yield "noised", scheduler.add_noise(setting.data.flatten(2), x, scheduler.timesteps[:1].expand(len(x)))
    for place, t in enumerate(scheduler.timesteps):
        velocity = setting.network(x[..., None], t).reshape(x.shape)
        try:
            entries = fields(scheduler.step(velocity, t, x, mask, generator=generator))
        except (IndexError, ValueError):
            if place + 1 < len(scheduler.timesteps):
                raise
            return  # The last time is the end of the last interval, not the start of one.
        yield f"step {place}", entries
        x = entries["prev_sample"]


def policies(scheduler: Any, setting: Setting) -> Seen:
    """Several predictions in one output, between which the scheduler integrates on its own."""
    x, predictions = setting.noise, int(scheduler.config["n_grid"])
    for place, t in enumerate(scheduler.timesteps):
        predicted = setting.network(x, t)
        each = [predicted * (1 + 0.1 * k) + 0.05 * k * predicted.roll(k, -1) for k in range(predictions)]
        wide = torch.cat(each, dim=-1)  # channels come last in the models that it is for
        entries = fields(scheduler.step(wide, t, x, **setting.step))
        yield f"step {place}", entries
        x = entries["prev_sample"]


def pyramid(scheduler: Any, setting: Setting) -> Seen:
    """The stages of one pyramid, each with timesteps of its own; the caller enlarges between them."""
    x = setting.noise[:, :, None]  # a video of one frame
    distilled = "dmd_noisy_tensor" in inspect.signature(scheduler.step).parameters
    for stage in range(int(scheduler.config["stages"])):
        scheduler.set_timesteps(**{**setting.run, "stage_index": stage})
        yield f"timesteps {stage}", scheduler.timesteps
        yield f"sigmas {stage}", scheduler.sigmas
        yield f"starts {stage}", float(scheduler.ori_start_sigmas[stage])
        start = x = 0.8 * x + 0.3 * x.roll(1, -1)
        for place, t in enumerate(scheduler.timesteps):
            options: dict[str, Any] = setting.generator(scheduler.step)
            if distilled:
                options |= {"cur_sampling_step": place, "dmd_noisy_tensor": start}
                options |= {"dmd_sigmas": scheduler.sigmas, "dmd_timesteps": scheduler.timesteps}
                options |= {"all_timesteps": scheduler.timesteps}
            x = scheduler.step(setting.network(x, t), t, x, **options).prev_sample
            yield f"stage {stage} step {place}", x  # the reference's other fields are the memory of its solver


def tokens_at_their_own_times(scheduler: Any, setting: Setting) -> Seen:
    """The common loop of flow matching, every token at a timestep of its own, some at no noise from the start."""
    x = setting.noise.flatten(2)  # (samples, tokens, channels), as video models have it
    kept = torch.arange(x.shape[1]) % 3 == 0
    for place, t in enumerate(scheduler.timesteps):
        times = torch.where(kept, torch.zeros(()), t.float()).expand(x.shape[:2])
        velocity = setting.network(x[..., None], t).reshape(x.shape)
        options = setting.generator(scheduler.step)
        entries = fields(scheduler.step(velocity, t, x, per_token_timesteps=times, **options))
        yield f"step {place}", entries
        x = entries["prev_sample"]


# ---- Rows ----


@dataclass(frozen=True)
class Row:
    """How one class is tried.

    Attributes:
        options: values of each option other than its default; a mapping stands for options that belong together.
        base: options that every case has; short tables where the reference takes long to build them.
        steps: numbers of steps.
        runs: further ways of calling ``set_timesteps``; ``mu`` is filled in where the configuration shifts by it.
        told: what ``set_timesteps`` is told in every run.
        like_defaults: further configurations, tried in every way that the defaults are.
        noise_by_table: whether ``add_noise`` before ``set_timesteps`` is compared with the table of training, not with
            the reference, which reads its rising sigmas at the places of its falling timesteps.
        noise_by_timestep: whether ``scale_noise`` is compared with flow matching's formula at each timestep, not with
            the reference, which stays at the timestep that it was called with first.
        pairs: how many pairs of options are tried; fewer where the reference takes long.
        step: further ways of calling ``step``.
        loop: what users write; the first loop is walked in every case, the others with the defaults only.
        timestep_range: the range that timesteps come from; ``num_train_timesteps`` where missing.
    """

    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] = (1, 2, 6, 9)
    runs: tuple[Mapping[str, Any], ...] = ()
    step: tuple[Mapping[str, Any], ...] = ()
    loops: tuple[Callable[[Any, Setting], Seen], ...] = (denoise, with_plain_tuples)
    timestep_range: float | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    like_defaults: tuple[Mapping[str, Any], ...] = ()
    pairs: int = 6
    noise_by_table: bool = False
    noise_by_timestep: bool = False


BETAS: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (37,),
    "beta_start": (0.001,),
    "beta_end": (0.015,),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": ({"trained_betas": [0.004 * k for k in range(1, 41)], "num_train_timesteps": 40},),
}
CLIPPING: dict[str, tuple[Any, ...]] = {
    "clip_sample": (True, False),
    "clip_sample_range": (0.6,),
    "thresholding": (True,),
    "dynamic_thresholding_ratio": (0.8,),
    "sample_max_value": (0.5, 1.6),
}
THRESHOLDING = {key: CLIPPING[key] for key in ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")}
SPACING: dict[str, tuple[Any, ...]] = {"timestep_spacing": ("linspace", "leading", "trailing"), "steps_offset": (1,)}
PREDICTION: dict[str, tuple[Any, ...]] = {"prediction_type": ("epsilon", "sample", "v_prediction")}
LEVELS: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (True,),
    "use_exponential_sigmas": (True,),
    "use_beta_sigmas": (True,),
}
FLOW: dict[str, tuple[Any, ...]] = {"use_flow_sigmas": (True,), "flow_shift": (3.0,)}
FLOW["flow_prediction"] = ({"use_flow_sigmas": True, "prediction_type": "flow_prediction"},)
A_FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.0}
SHIFTED: dict[str, tuple[Any, ...]] = {"use_dynamic_shifting": (True,), "time_shift_type": ("exponential", "linear")}
ZERO_SNR: dict[str, tuple[Any, ...]] = {"rescale_betas_zero_snr": (True,)}
ALPHAS: dict[str, tuple[Any, ...]] = {"set_alpha_to_one": (True, False)}
SHORT: dict[str, Any] = {"num_train_timesteps": 100, "beta_start": 0.007, "beta_end": 0.11}
FLOW_SIGMAS: tuple[Mapping[str, Any], ...] = ({"sigmas": [1.0, 0.8, 0.45, 0.2]}, {"timesteps": [990.0, 600.0, 250.0]})
CHURN: tuple[Mapping[str, Any], ...] = (
    {"s_churn": 3.0, "s_noise": 1.01},
    {"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 8.0},
)
VARIANCES: dict[str, tuple[Any, ...]] = {
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
}
ETAS: tuple[Mapping[str, Any], ...] = (
    {"eta": 0.5},
    {"eta": 1.0, "use_clipped_model_output": True},
    {"eta": 0.7, "variance_noise": standard_noise(9)},
)
DDIM = Row({**BETAS, **CLIPPING, **SPACING, **PREDICTION, **ZERO_SNR, **ALPHAS}, step=ETAS)
DDPM = Row(
    {**BETAS, "beta_schedule": ("scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"), **CLIPPING}
    | {**SPACING, **PREDICTION, **ZERO_SNR, **VARIANCES},
    runs=({"timesteps": [900, 500, 77, 3]}, {"timesteps": [20, 10]}),
)
DPM = {**BETAS, **THRESHOLDING, **PREDICTION, **LEVELS, **FLOW, "solver_order": (1, 3)} | {
    "prediction_type": ("sample", "v_prediction"),
    "algorithm_type": ("dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
    "solver_type": ("heun",),
    "lower_order_final": (True, False),
    "lambda_min_clipped": (-5.1,),
    "variance_type": ("learned", "learned_range"),
}
TWO_STAGE = Row({**BETAS, **SPACING, **PREDICTION, **LEVELS}, base=SHORT, pairs=5)
FLOW_MATCH = {**LEVELS, **SHIFTED, "num_train_timesteps": (500,), "shift": (3.0, 0.7), "invert_sigmas": (True,)} | {
    "shift_terminal": (0.1,),
    "base_shift": (0.4,),
    "max_shift": (1.2,),
    "base_image_seq_len": (300,),
    "max_image_seq_len": (5000,),
}
FLOW_RUNS: tuple[Mapping[str, Any], ...] = (
    *FLOW_SIGMAS,
    {"sigmas": [1.0, 0.7, 0.3], "timesteps": [1000.0, 800.0, 200.0]},
    {"sigmas": [0.9, 0.5], "num_inference_steps": 2},
)
CONSISTENCY = Row(
    {**BETAS, **CLIPPING, **PREDICTION, **ZERO_SNR, **ALPHAS, "original_inference_steps": (20,)}
    | {"steps_offset": (1,), "timestep_scaling": (5.0,)},
    steps=(1, 2, 4, 8),
    runs=(
        {"num_inference_steps": 4, "original_inference_steps": 100},
        {"num_inference_steps": 4, "strength": 0.6},
        {"timesteps": [979, 739, 499, 259]},
        {"timesteps": [999, 759, 499, 259]},
    ),
)
EDM = {
    "sigma_min": (0.01,),
    "sigma_max": (30.0,),
    "sigma_data": (0.7,),
    "sigma_schedule": ("karras", "exponential"),
    "num_train_timesteps": (1000,),
    "prediction_type": ("epsilon", "v_prediction"),
    "rho": (5.0,),
    "final_sigmas_type": ("sigma_min",),
}
FEW: dict[str, Any] = {"num_train_timesteps": 60}
"""For classes that stand on a run over all training timesteps: a plan of as many steps for each case otherwise."""

HELIOS = {
    "shift": (3.0,),
    "stages": ({"stages": 2, "stage_range": [0, 0.5, 1]}, {"stages": 1, "stage_range": [0, 1]}),
    "stage_range": ([0, 0.25, 0.5, 1],),
    "gamma": (0.5,),
    **SHIFTED,
    "use_flow_sigmas": (False,),
}

ROWS: dict[str, Row] = {
    "CMStochasticIterativeScheduler": Row(
        {"num_train_timesteps": (60,), "sigma_min": (0.01,), "sigma_max": (40.0,), "sigma_data": (0.8,)}
        | {"s_noise": (1.1,), "rho": (5.0,), "clip_denoised": (False,)},
        runs=({"timesteps": [22, 0]}, {"timesteps": [39, 20, 7]}),
    ),
    "CogVideoXDDIMScheduler": Row(
        {**BETAS, **SPACING, **PREDICTION, **ZERO_SNR, **ALPHAS, "snr_shift_scale": (1.0,)}, step=ETAS
    ),
    "CogVideoXDPMScheduler": Row(
        {**BETAS, **SPACING, **PREDICTION, **ZERO_SNR, **ALPHAS, "snr_shift_scale": (1.0,)},
        loops=(history_with_caller,),
        step=({"return_dict": True},),
    ),
    "ConsistencyDecoderScheduler": Row({"num_train_timesteps": (2000,), "sigma_data": (0.8,)}, steps=(2,)),
    "CosineDPMSolverMultistepScheduler": Row(
        {**EDM, "prediction_type": ("epsilon",), "solver_order": (1,), "solver_type": ("heun",)}
        | {"lower_order_final": (False,), "euler_at_final": (True,)},
        base=FEW,
        steps=(2, 5),
        timestep_range=2.0,
        pairs=5,
    ),
    "DDIMInverseScheduler": Row(
        {**BETAS, **SPACING, **PREDICTION, **ZERO_SNR, **ALPHAS}
        | {key: CLIPPING[key] for key in ("clip_sample", "clip_sample_range")},
        loops=(denoise, with_plain_tuples),
    ),
    "DDIMParallelScheduler": DDIM,
    "DDIMScheduler": DDIM,
    "DDPMParallelScheduler": DDPM,
    "DDPMScheduler": DDPM,
    "DDPMWuerstchenScheduler": Row(
        {"scaler": (0.5, 2.0), "s": (0.02,)},
        runs=({"timesteps": [1.0, 0.6, 0.2, 0.0]},),
        loops=(ratios,),
        timestep_range=1.0,
    ),
    "DEISMultistepScheduler": Row(
        {**BETAS, **THRESHOLDING, **SPACING, **LEVELS, **FLOW, **SHIFTED, "solver_order": (1, 3)}
        | {"prediction_type": ("sample", "v_prediction"), "lower_order_final": (False,)},
        like_defaults=(A_FLOW,),
        noise_by_table=True,
    ),
    "DPMSolverMultistepInverseScheduler": Row({**DPM, **SPACING, "euler_at_final": (True,)}),
    "DPMSolverMultistepScheduler": Row(
        {**DPM, **SPACING, **ZERO_SNR, **SHIFTED, "euler_at_final": (True,), "use_lu_lambdas": (True,)}
        | {"final_sigmas_type": ("sigma_min",)},
        runs=({"timesteps": [999, 600, 400, 7]},),
        like_defaults=(A_FLOW,),
        noise_by_table=True,
        step=({"variance_noise": standard_noise(9)},),
    ),
    "DPMSolverSDEScheduler": Row(
        {**TWO_STAGE.options, "noise_sampler_seed": (3,)},
        base={**SHORT, "noise_sampler_seed": 0},
        step=({"s_noise": 0.9},),
        steps=(2, 5),
        pairs=5,
    ),
    "DPMSolverSinglestepScheduler": Row(
        {**DPM, **SHIFTED, "algorithm_type": ("dpmsolver", "sde-dpmsolver++"), "final_sigmas_type": ("sigma_min",)},
        runs=({"timesteps": [999, 600, 400, 7]},),
        like_defaults=(A_FLOW,),
        noise_by_table=True,
    ),
    "EDMDPMSolverMultistepScheduler": Row(
        {**EDM, **THRESHOLDING, "solver_order": (1, 3), "algorithm_type": ("sde-dpmsolver++",)}
        | {"solver_type": ("heun",), "lower_order_final": (False,), "euler_at_final": (True,)},
        base=FEW,
        timestep_range=2.0,
    ),
    "EDMEulerScheduler": Row(
        EDM,
        FEW,
        step=CHURN,
        runs=({"num_inference_steps": 4, "sigmas": torch.linspace(0, 1, 4) ** 2},),
        timestep_range=2.0,
    ),
    "EulerAncestralDiscreteScheduler": Row({**BETAS, **SPACING, **PREDICTION, **ZERO_SNR}),
    "EulerDiscreteScheduler": Row(
        {**BETAS, **SPACING, **PREDICTION, **LEVELS, **ZERO_SNR, "interpolation_type": ("log_linear",)}
        | {"sigma_min": (0.1,), "sigma_max": (12.0,), "timestep_type": ("continuous",)}
        | {"final_sigmas_type": ("sigma_min",)},
        runs=({"timesteps": [999, 600, 400, 7]}, {"sigmas": [14.0, 6.0, 2.0, 0.3, 0.0]}),
        step=CHURN,
    ),
    "FlowMapEulerDiscreteScheduler": Row(
        {"num_train_timesteps": (500,), "shift": (3.0, 0.7)}, runs=FLOW_SIGMAS, loops=(two_times, denoise)
    ),
    "FlowMatchEulerDiscreteScheduler": Row(
        {**FLOW_MATCH, "stochastic_sampling": (True,)},
        runs=FLOW_RUNS,
        step=CHURN,
        loops=(denoise, tokens_at_their_own_times),
    ),
    "FlowMatchHeunDiscreteScheduler": Row(
        {"num_train_timesteps": (500,), "shift": (3.0, 0.7)}, step=CHURN, loops=(denoise,), noise_by_timestep=True
    ),
    "FlowMatchLCMScheduler": Row(
        {
            **FLOW_MATCH,
            "scale_factors": ([0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0],),
            "upscale_mode": ("nearest",),
        },
        runs=FLOW_RUNS,
        loops=(denoise,),
    ),
    "HeliosDMDScheduler": Row(HELIOS, steps=(2, 4), loops=(pyramid,), told={"stage_index": 0}),
    "HeliosScheduler": Row(
        # UniPC starts at sigma = 1 in a single stage, where the reference corrects over a step of infinite length.
        {**HELIOS, "stages": (HELIOS["stages"][0], {"stages": 1, "stage_range": [0, 1], "scheduler_type": "euler"})}
        | {"thresholding": (True,), "solver_order": (1, 3), "predict_x0": (False,), "solver_type": ("bh1",)}
        | {"lower_order_final": (False,), "disable_corrector": ([1],), "scheduler_type": ("euler",)},
        steps=(2, 4),
        loops=(pyramid,),
        told={"stage_index": 0},
    ),
    "HeunDiscreteScheduler": Row(
        {**TWO_STAGE.options, "clip_sample": (True,), "clip_sample_range": (0.6,)},
        base=SHORT,
        runs=({"timesteps": [99, 60, 40, 7]},),
    ),
    "IPNDMScheduler": Row({"num_train_timesteps": (100,)}, steps=(2, 6, 9)),
    "KDPM2AncestralDiscreteScheduler": TWO_STAGE,
    "KDPM2DiscreteScheduler": TWO_STAGE,
    "KarrasVeScheduler": Row(
        {"sigma_min": (0.1,), "sigma_max": (50,), "s_noise": (1.0,), "s_churn": (0, 40), "s_min": (0.5,)}
        | {"s_max": (20,)},
        loops=(churn_and_correct,),
    ),
    "LCMScheduler": CONSISTENCY,
    "LMSDiscreteScheduler": Row(
        {**BETAS, **SPACING, **PREDICTION, **LEVELS},
        steps=(2, 6),
        step=({"order": 2}, {"order": 3}),
        base=SHORT,
        pairs=5,
    ),
    "LTXEulerAncestralRFScheduler": Row(
        {"num_train_timesteps": (500,), "eta": (0.0, 0.5), "s_noise": (0.9,)},
        # Timesteps are another name for sigmas there, and above 1 the reference walks samples with negative alphas.
        runs=({"sigmas": [1.0, 0.8, 0.45, 0.0]}, {"timesteps": [0.99, 0.6, 0.25]}),
        loops=(denoise, with_plain_tuples),
    ),
    "MiniMaxH3Scheduler": Row(
        {"shift": (1.0, 5.0)},
        steps=(2, 6),
        runs=({"sigmas": [1.0, 0.8, 0.45, 0.0]},),
        loops=(denoise,),
        timestep_range=1.0,
    ),
    "PNDMScheduler": Row(
        {**BETAS, **SPACING, **ALPHAS, "prediction_type": ("v_prediction",), "skip_prk_steps": (True, False)},
        steps=(4, 6, 9),
    ),
    "PiflowScheduler": Row(
        {"num_train_timesteps": (500,), "shift": (3.0,), "n_grid": (4,), "eps": (1e-4,)}
        | {"final_step_size_scale": (1.0,), "num_policy_substeps": (40,)},
        steps=(1, 2, 4),
        loops=(policies,),
    ),
    "RFD4ProteinaScheduler": Row(
        {"schedule_mode": ("log", "power"), "noise_mode": ("1/t", "tan"), "tsr_k": (2.5,), "tsr_sigma": (0.3,)}
        | {"tail_steps": (3,), "tail_step_multiplier": (3,), "t_lim_ode": (0.8,), "t_lim_ode_below": (0.1,)},
        base={"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.5, "tsr_sigma": 0.5},
        steps=(20, 23),
        runs=({"num_inference_steps": 24, "start_time": 0.4},),
        loops=(tokens_kept,),
        timestep_range=1.0,
    ),
    "RePaintScheduler": Row(
        {**BETAS, "beta_schedule": ("scaled_linear", "squaredcos_cap_v2", "sigmoid"), "eta": (0.5,)}
        | {"clip_sample": (False,)},
        runs=({"num_inference_steps": 8, "jump_length": 2, "jump_n_sample": 3},),
        loops=(repaint,),
    ),
    "SASolverScheduler": Row(
        {**BETAS, **THRESHOLDING, **SPACING, **LEVELS, **FLOW, "predictor_order": (1, 3), "corrector_order": (1, 3)}
        | {"prediction_type": ("sample", "v_prediction"), "algorithm_type": ("noise_prediction",)}
        | {"lower_order_final": (False,), "lambda_min_clipped": (-5.1,), "variance_type": ("learned_range",)},
        like_defaults=(A_FLOW,),
        noise_by_table=True,
    ),
    "SCMScheduler": Row(
        {"num_train_timesteps": (500,), "sigma_data": (0.8,)},
        runs=(
            {"num_inference_steps": 3, "timesteps": [1.5, 1.0, 0.4, 0.0]}
            | {"max_timesteps": None, "intermediate_timesteps": None},
            {"num_inference_steps": 4, "max_timesteps": 1.4, "intermediate_timesteps": None},
        ),
        steps=(2,),
        loops=(all_but_the_last,),
        timestep_range=1.6,
    ),
    "ScoreSdeVeScheduler": Row(
        {"num_train_timesteps": (500,), "snr": (0.1,), "sigma_min": (0.1,), "sigma_max": (50.0,)}
        | {"sampling_eps": (1e-3,), "correct_steps": (2,)},
        loops=(predict_and_correct,),
        timestep_range=1.0,
    ),
    "ScoreSdeVpScheduler": Row(
        {"num_train_timesteps": (500,), "beta_min": (0.2,), "beta_max": (10,), "sampling_eps": (1e-2,)},
        loops=(scores,),
        timestep_range=1.0,
    ),
    "TCDScheduler": Row(
        CONSISTENCY.options, steps=CONSISTENCY.steps, runs=CONSISTENCY.runs, step=({"eta": 0.0}, {"eta": 0.8})
    ),
    "UnCLIPScheduler": Row(
        {"num_train_timesteps": (100,), "variance_type": ("learned_range",), "clip_sample": (False,)}
        | {"clip_sample_range": (0.6,), "prediction_type": ("sample",)},
        steps=(2, 6, 9),
        loops=(from_timestep_to_timestep, denoise),
    ),
    "UniPCMultistepScheduler": Row(
        {**BETAS, **THRESHOLDING, **SPACING, **LEVELS, **FLOW, **ZERO_SNR, **SHIFTED, "solver_order": (1, 3)}
        | {"prediction_type": ("sample", "v_prediction"), "predict_x0": (False,)}
        | {"solver_type": ("bh1",), "lower_order_final": (False,), "disable_corrector": ([0], [1, 2])}
        | {"final_sigmas_type": ("sigma_min",), "sigma_min": (0.1,), "sigma_max": (12.0,), "shift_terminal": (0.1,)},
        runs=({"sigmas": np.array([1.0, 0.8, 0.45, 0.2])},),
        like_defaults=(A_FLOW,),
        noise_by_table=True,
    ),
}
"""Every class of diffusers that samples continuous data."""


# ---- Cases ----


@dataclass(frozen=True)
class Case:
    """A configuration, with all that is tried with it.

    Attributes:
        config: of the scheduler.
        thorough: whether every run, number of steps, loop and way of calling ``step`` is tried.
        runs: of ``set_timesteps``.
        early: whether steps before ``set_timesteps`` are tried.
        told: whether a run from the second place is told of it or finds it; a thorough case has both.
    """

    config: Mapping[str, Any]
    thorough: bool
    runs: tuple[Mapping[str, Any], ...]
    early: bool = True
    told: bool = True


def in_library(library: Any, name: str) -> Any:
    """The class of a name in ``diffusers`` or ``diffusolve``, internal ones included; None where there is none."""
    found = getattr(library, name, None)
    if found is None and library is diffusers:
        from diffusers.schedulers import deprecated, scheduling_consistency_decoder

        found = getattr(scheduling_consistency_decoder, name, None) or getattr(deprecated, name, None)
    return found


def cases(name: str) -> Iterator[Case]:
    """The defaults with everything, each option on its own, and a sample of pairs of options."""
    row = ROWS[name]
    shorter = [{"num_inference_steps": steps} for steps in row.steps]
    for config in ({}, *row.like_defaults):
        yield Case({**row.base, **config}, True, (*shorter, *row.runs))
    singles = [
        value if isinstance(value, Mapping) else {option: value}
        for option, values in row.options.items()
        for value in values
    ]
    others = [*shorter[:-1], *row.runs]
    for place, single in enumerate(singles):
        yield Case(
            {**row.base, **single},
            False,
            (shorter[-1], *others[place % max(1, len(others)) :][:1]),
            told=place % 2 == 0,
        )
    pairs = [(a, b) for a, b in combinations(singles, 2) if not a.keys() & b.keys()]
    for place, (a, b) in enumerate(random.Random(name).sample(pairs, min(row.pairs, len(pairs)))):
        of_pair = (shorter[-1 - place % min(2, len(shorter))],)
        yield Case({**row.base, **a, **b}, False, of_pair, early=False, told=place % 2 == 0)


def network_of(name: str, config: Mapping[str, Any]) -> Callable[[Tensor, Any], Tensor]:
    """A smooth nonlinear prediction; with a second half of channels where the class reads variances from it."""
    stand_in = StandInNetwork(ROWS[name].timestep_range or float(config.get("num_train_timesteps", 1000)))
    if not learns_variances(config):
        return stand_in

    def with_variances(x: Tensor, timestep: Any) -> Tensor:
        predicted = stand_in(torch.cat([x, x.mean(1, keepdim=True)], dim=1), timestep)[:, :3]
        return torch.cat([predicted, 0.2 + 0.1 * torch.tanh(predicted.roll(2, -1))], dim=1)

    return with_variances


def learns_variances(config: Mapping[str, Any]) -> bool:
    """Whether outputs have twice the channels of samples; these are then pictures of three channels."""
    return config.get("variance_type") in ("learned", "learned_range")


def run_arguments(name: str, config: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's arguments, with mu where the configuration shifts by it."""
    mu = {"mu": 0.7} if config.get("use_dynamic_shifting") else {}
    return {**mu, **ROWS[name].told, **run}


# ---- Parts: everything that is seen of a scheduler ----


def members(scheduler: Any) -> Seen:
    """What can be read without calling anything."""
    for member in ("timesteps", "sigmas", "num_inference_steps", "order"):
        if hasattr(scheduler, member):
            yield member, getattr(scheduler, member)
    if hasattr(scheduler, "init_noise_sigma"):
        yield "init_noise_sigma", float(scheduler.init_noise_sigma)
    for member in ("betas", "alphas_cumprod", "final_alpha_cumprod", "shift", "step_index", "begin_index"):
        if hasattr(scheduler, member):
            yield member, getattr(scheduler, member)
    if hasattr(type(scheduler), "__len__"):
        with suppress(AttributeError):  # a class whose length is that of a table which it does not have
            yield "len", len(scheduler)


def configuration(scheduler: Any) -> Seen:
    """Keys and values, and the file that they are saved in."""
    for form, config in (("config", dict(scheduler.config)), ("saved", json.loads(scheduler.to_json_string()))):
        for key in sorted(config):
            if key not in ("_diffusers_version", "_use_default_values"):
                yield (f"{form}[{key}]", tuple(v) if isinstance(v := config[key], list) else v)
    yield "config_name", scheduler.config_name
    yield "compatibles", sorted(type(scheduler)._compatibles)


def loaded(scheduler: Any) -> Seen:
    """A scheduler made from another's configuration."""
    yield from configuration(type(scheduler).from_config(scheduler.config))
    other = ROWS[type(scheduler).__name__].options.get("prediction_type", ("sample",))[-1]
    yield from configuration(type(scheduler).from_config(scheduler.config, prediction_type=other))


def early(scheduler: Any, setting: Setting) -> Seen:
    """Use before ``set_timesteps``, as trainers and tests have it."""
    t = scheduler.timesteps[len(scheduler.timesteps) // 3]
    if hasattr(scheduler, "scale_model_input"):
        yield "scaled input", scheduler.scale_model_input(setting.noise, t)
    options = {**setting.generator(scheduler.step), **setting.step}
    yield ("step", fields(scheduler.step(setting.network(setting.noise, t), t, setting.noise, **options)))


def offers(scheduler: Any, method: str) -> bool:
    """Whether the class of diffusers of this name has a method, which ours may have only to say what to call."""
    return hasattr(in_library(diffusers, type(scheduler).__name__), method)


def noised(scheduler: Any, setting: Setting) -> Seen:
    """The forward process, at several of the timesteps that the scheduler has at the time."""
    count = len(scheduler.timesteps)
    for place in sorted({0, count // 2, count - 1}):
        times = scheduler.timesteps[place : place + 1]
        if offers(scheduler, "scale_noise"):
            yield (f"scale_noise {place}", scheduler.scale_noise(setting.data, times, setting.noise))
        if hasattr(scheduler, "add_noise"):
            yield (f"add_noise {place}", scheduler.add_noise(setting.data, setting.noise, times))
        if hasattr(scheduler, "get_velocity"):
            yield (f"velocity {place}", scheduler.get_velocity(setting.data, setting.noise, times))


def noised_apart(scheduler: Any, setting: Setting) -> Seen:
    """The forward process, each sample of a batch at a timestep of its own."""
    times = scheduler.timesteps[torch.tensor([len(scheduler.timesteps) - 1, len(scheduler.timesteps) // 3])]
    if offers(scheduler, "scale_noise"):
        yield "scale_noise", scheduler.scale_noise(setting.data, times, setting.noise)
    else:
        yield "add_noise", scheduler.add_noise(setting.data, setting.noise, times)


def by_table(scheduler: Any, setting: Setting, times: Tensor) -> Tensor:
    """Noised data by the closed form of training on discrete timesteps."""
    if scheduler.config.get("use_flow_sigmas"):
        raise NotImplementedError("a flow's noise is not in the table")
    alpha = scheduler.alphas_cumprod[times.long()].reshape(-1, 1, 1, 1)
    return alpha.sqrt() * setting.data + (1 - alpha).sqrt() * setting.noise


def noised_by_table(scheduler: Any, setting: Setting) -> Seen:
    """What :func:`noised` should show."""
    count = len(scheduler.timesteps)
    for place in sorted({0, count // 2, count - 1}):
        yield f"add_noise {place}", by_table(scheduler, setting, scheduler.timesteps[place : place + 1])


def noised_apart_by_table(scheduler: Any, setting: Setting) -> Seen:
    """What :func:`noised_apart` should show."""
    count = len(scheduler.timesteps)
    yield "add_noise", by_table(scheduler, setting, scheduler.timesteps[torch.tensor([count - 1, count // 3])])


def noised_by_timestep(scheduler: Any, setting: Setting) -> Seen:
    """What :func:`noised` should show of flow matching."""
    count = len(scheduler.timesteps)
    for place in sorted({0, count // 2, count - 1}):
        sigma = scheduler.timesteps[place] / scheduler.config["num_train_timesteps"]
        yield f"scale_noise {place}", (1 - sigma) * setting.data + sigma * setting.noise


def noised_apart_by_timestep(scheduler: Any, setting: Setting) -> Seen:
    """What :func:`noised_apart` should show of flow matching."""
    times = scheduler.timesteps[torch.tensor([len(scheduler.timesteps) - 1, len(scheduler.timesteps) // 3])]
    sigma = (times / scheduler.config["num_train_timesteps"]).reshape(-1, 1, 1, 1)
    yield "scale_noise", (1 - sigma) * setting.data + sigma * setting.noise


def middle(scheduler: Any, setting: Setting, begin: bool) -> Seen:
    """A run that starts at its second place, which is told or found."""
    first = getattr(scheduler, "order", 1)
    times = scheduler.timesteps[first : first + 1]
    if begin:
        scheduler.set_begin_index(first)
    if offers(scheduler, "scale_noise"):
        x = scheduler.scale_noise(setting.data, times, setting.noise)
    else:
        x = scheduler.add_noise(setting.data, setting.noise, times)
    yield "noised", x
    yield from denoise(scheduler, setting, first, x)


def setting_of(name: str, case: Case, run: Mapping[str, Any], step: Mapping[str, Any]) -> Setting:
    """How a case is called, with its network and data."""
    channels = slice(3) if learns_variances(case.config) else slice(None)
    noise, data = standard_noise(0)[:, channels], 0.3 * standard_noise(1)[:, channels]
    run = run_arguments(name, case.config, run)
    return Setting(run, step, network_of(name, case.config), noise, data)


Part = tuple[str, Callable[[Any], Seen]]


def parts(name: str, case: Case, by_formula: bool = False) -> Iterator[Part]:
    """The parts of a case, each for a new scheduler; with formulas where the row does not ask the reference."""
    row = ROWS[name]
    setting = partial(setting_of, name, case)
    (early_noise, early_noise_apart), (late_noise, late_noise_apart) = (noised, noised_apart), (noised, noised_apart)
    if by_formula and row.noise_by_table:
        early_noise, early_noise_apart = noised_by_table, noised_apart_by_table
    if by_formula and row.noise_by_timestep:
        early_noise, early_noise_apart = late_noise, late_noise_apart = noised_by_timestep, noised_apart_by_timestep

    def after_run(settings: Setting, what: Callable[[Any, Setting], Seen]) -> Callable[[Any], Seen]:
        def seen(scheduler: Any) -> Seen:
            scheduler.set_timesteps(**settings.run)
            yield from members(scheduler)
            yield from what(scheduler, settings)

        return seen

    plain = setting({}, {})
    yield "as made", members
    yield "configuration", configuration
    if case.thorough:
        yield "from_config", loaded
    yield "noised before set_timesteps", lambda scheduler: early_noise(scheduler, plain)
    yield "noised apart before set_timesteps", lambda scheduler: early_noise_apart(scheduler, plain)
    if row.loops[0] is denoise and case.early:
        yield "stepped before set_timesteps", lambda scheduler: early(scheduler, plain)
    for run in case.runs:
        told = setting(run, {})
        yield f"set_timesteps({run})", after_run(told, row.loops[0])
        if case.thorough:
            yield f"noised after set_timesteps({run})", after_run(told, late_noise)
            yield f"noised apart after set_timesteps({run})", after_run(told, late_noise_apart)
            for step in row.step:
                yield (f"set_timesteps({run}), step({step})", after_run(setting(run, step), row.loops[0]))
            for loop in row.loops[1:]:
                yield f"set_timesteps({run}), {loop.__name__}", after_run(told, loop)
    if row.loops[0] is denoise:
        told = setting({"num_inference_steps": row.steps[-1]}, {})
        if case.thorough or not case.told:
            yield ("from the second place, found", after_run(told, lambda s, setting: middle(s, setting, False)))
        if case.thorough or case.told:
            yield ("from the second place, told", after_run(told, lambda s, setting: middle(s, setting, True)))


# ---- Comparison ----

RAISED = "raised"


def observe(scheduler: Any, part: Callable[[Any], Seen]) -> dict[str, Any]:
    """All that a part shows, up to where it raises."""
    seen: dict[str, Any] = {}
    torch.default_generator.manual_seed(3)
    try:
        for label, value in part(scheduler):
            seen[label] = {k: _kept(v) for k, v in value.items()} if isinstance(value, dict) else _kept(value)
    except Exception as error:
        seen[RAISED] = f"{type(error).__name__}: {error}"
    return seen


def _kept(value: Any) -> Any:
    """A value as it is now: a scheduler may write to its tensors later."""
    return value.clone() if isinstance(value, Tensor) else value


ROUNDED: tuple[tuple[str, Mapping[str, Any], str, float], ...] = (
    ("DEISMultistepScheduler", {"thresholding": True}, "'num_inference_steps': 2", 2e-4),
    ("HeunDiscreteScheduler", {"beta_schedule": "squaredcos_cap_v2"}, "'num_inference_steps': 2", 3e-3),
    ("HeunDiscreteScheduler", {"clip_sample": True}, "'num_inference_steps': 2", 1e-3),
    ("KDPM2AncestralDiscreteScheduler", {"beta_schedule": "squaredcos_cap_v2"}, "", 1e-3),
    ("KDPM2AncestralDiscreteScheduler", {"beta_schedule": "scaled_linear"}, "'num_inference_steps': 2", 1e-3),
    ("KDPM2AncestralDiscreteScheduler", {"prediction_type": "v_prediction"}, "'num_inference_steps': 2", 3e-4),
)
"""Cases in which the reference's single precision is off by more than :data:`WITHIN`: class, options, part, how far.

Two steps go from a sigma of 20, or of 2,000, to 0.08. In double precision Heun's are the same to 1e-7, and our DEIS is
1e-6 from itself in double precision; KDPM2's sigma below the next, ``sigma_to ** 2 / sigma_from``, is there the root of
a difference of squares equal to six digits.
"""


def within_of(name: str, config: Mapping[str, Any], part: str) -> float:
    """How far values of a part may be from the reference's, relative to the largest."""
    fits = (
        within
        for of, options, text, within in ROUNDED
        if of == name and options.items() <= config.items() and text in part
    )
    return next(fits, WITHIN)


def _finite(value: Any) -> bool:
    """Whether a sample is; infinite options are compared as they are."""
    if isinstance(value, dict):
        return all(_finite(entry) for entry in value.values())
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value.double()).all())
    return True


def difference(label: str, mine: Any, reference: Any, within: float = WITHIN) -> str | None:
    """How two values differ, in words; None if they are the same for our purposes."""
    if isinstance(reference, dict):
        if not isinstance(mine, dict) or list(mine) != list(reference):
            return f"has {list(mine) if isinstance(mine, dict) else mine}, the reference {list(reference)}"
        entries = ((key, difference(label, mine[key], value, within)) for key, value in reference.items())
        return next((f"{key} {text}" for key, text in entries if text), None)
    if isinstance(reference, Tensor):
        if not isinstance(mine, Tensor) or mine.shape != reference.shape or mine.dtype != reference.dtype:
            form = (mine.dtype, tuple(mine.shape)) if isinstance(mine, Tensor) else repr(mine)
            return f"is {form}, the reference's {(reference.dtype, tuple(reference.shape))}"
        if not reference.numel():
            return None
        a, b = mine.double(), reference.double()
        least = 1e-12
        if "timesteps" in label:
            least, within = 0.1, TIMESTEPS_WITHIN if within == WITHIN else within
        error = float((a - b).abs().max() / b.abs().max().clamp(min=least))
        return None if error <= within else f"is off by {error:.1e} of the largest"
    if isinstance(reference, float) and isinstance(mine, (int, float)):
        if math.isclose(mine, reference, rel_tol=WITHIN, abs_tol=1e-12) or (math.isnan(mine) and math.isnan(reference)):
            return None
        return f"is {mine}, the reference's {reference}"
    if label == "compatibles":
        missing = set(reference) - set(mine)
        return f"lacks {sorted(missing)}" if missing else None
    if label in ("num_inference_steps", "timesteps", "sigmas") and reference is None:
        return None  # of timesteps that were given, or before there are any; to know them does no harm
    same = type(mine) is type(reference) and mine == reference
    return None if same else f"is {_one_line(mine)}, the reference's {_one_line(reference)}"


def compare(mine: Mapping[str, Any], reference: Mapping[str, Any], within: float = WITHIN) -> str | None:
    """The first thing of a part that differs; nothing does where the reference has nothing to show."""
    if not reference:
        return None
    for label, value in reference.items():
        if label == RAISED or (label == "step 0" and starts_too_late(reference)):
            return None
        if not _finite(value):
            if label.startswith(("step", "corrected", "stage", "undone")):
                return None
            continue
        if label not in mine:
            return f"{label}: {mine.get(RAISED, 'is not there')}"
        found = difference(label, mine[label], value, within)
        if found:
            return f"{label}: {found}"
    return f"at the end: {mine[RAISED]}" if RAISED in mine else None


def starts_too_late(reference: Mapping[str, Any]) -> bool:
    """Whether the reference took the second of two equal timesteps for the first, and ran out of steps at the end."""
    timesteps = reference.get("timesteps")
    return RAISED in reference and isinstance(timesteps, Tensor) and len(timesteps.unique()) < len(timesteps)


def check_constructor(name: str, library: Any = diffusolve) -> list[str]:
    """The parameters of the methods are those of the reference, in its order and with its defaults."""
    mine, reference = in_library(library, name), in_library(diffusers, name)
    failures = []
    for method in ("__init__", "set_timesteps", "step", "add_noise", "scale_noise", "scale_model_input"):
        if not hasattr(reference, method):
            continue
        if not hasattr(mine, method):
            failures.append(f"{name}.{method} is not there")
            continue
        a = inspect.signature(getattr(mine, method)).parameters
        b = inspect.signature(getattr(reference, method)).parameters
        named = [key for key, p in b.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if [key for key in a if key in named] != named or list(a)[: len(named)] != named:
            failures.append(f"{name}.{method} takes {list(a)}, the reference {named}")
            continue
        for key in named:
            default, wanted = a[key].default, b[key].default
            same = list(default) == list(wanted) if isinstance(wanted, (list, tuple)) else default == wanted
            if not same and wanted is not inspect.Parameter.empty:
                failures.append(f"{name}.{method}({key}) is {default!r} unless given, the reference's {wanted!r}")
    return failures


def made(library: Any, name: str, config: Mapping[str, Any]) -> Any:
    """A scheduler, or the error that there was."""
    try:
        return in_library(library, name)(**copy.deepcopy(dict(config)))
    except Exception as error:
        return error


def check_class(name: str, library: Any = diffusolve) -> list[str]:
    """What of a class differs from diffusers': a line for each part of each case.

    And a line for each loop with the defaults that the reference does not walk, if these are many: a row that shows
    little.

    Args:
        name: of a class that has a row.
        library: which has the class that is tried; ``diffusers`` itself shows that the row is sound.
    """
    return [*check_constructor(name, library), *_check_cases(name, library, cases(name))]


def summary(failures: list[str]) -> str:
    """Failures with the same ending as one line, the most frequent first."""
    endings: dict[str, list[str]] = {}
    for failure in failures:
        endings.setdefault(failure.split(": ", 1)[-1], []).append(failure)
    lines = [f"{len(alike)} x {alike[0]}" for alike in sorted(endings.values(), key=len, reverse=True)]
    return "\n".join([f"{len(failures)} parts differ:", *lines[:40]])


def _check_cases(name: str, library: Any, tried: Iterable[Case]) -> list[str]:
    failures: list[str] = []
    with _quiet():
        for case in tried:
            changed = {key: value for key, value in case.config.items() if ROWS[name].base.get(key, ...) != value}
            reference = made(diffusers, name, case.config)
            if isinstance(reference, Exception):
                continue
            mine = made(library, name, case.config)
            if isinstance(mine, Exception):
                failures.append(f"{name}({_short(changed)}): {type(mine).__name__}: {mine}")
                continue
            expected = parts(name, case, by_formula=library is not diffusers)
            loops, unwalked = 0, []
            for (label, part), (_, wanted) in zip(parts(name, case), expected, strict=True):
                shown = observe(copy.deepcopy(reference), wanted)
                loops += label.startswith("set_timesteps")
                if label.startswith("set_timesteps") and RAISED in shown:
                    unwalked.append(f"{name}, {label}: the reference raises {shown[RAISED]}")
                if next(iter(shown), RAISED) == RAISED:  # nothing to compare with
                    continue
                found = compare(observe(copy.deepcopy(mine), part), shown, within_of(name, case.config, label))
                if found:
                    failures.append(f"{name}({_short(changed)}), {label}: {found}")
            if case.config == ROWS[name].base and len(unwalked) > 0.4 * loops:
                failures += unwalked
    return failures


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of odd configurations, of which there are hundreds."""
    verbosity = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers.logging.set_verbosity(verbosity)


def _short(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}"[:60] for key, value in config.items())


def _one_line(value: Any) -> str:
    return " ".join(repr(value).split())[:120]


assert SHAPE[0] == 2, "times of two samples are stacked"
