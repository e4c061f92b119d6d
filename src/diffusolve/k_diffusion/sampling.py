"""The functions of ``k_diffusion.sampling``: same names, arguments, callbacks and random numbers.

Each says which solver it stands for; one loop runs all their plans. What they have in common,
:data:`~diffusolve.k_diffusion.arguments.ARGUMENTS`, is put into the docstring of each.

ComfyUI's own functions, :mod:`diffusolve.k_diffusion.comfyui`, are found here too.

Random numbers that k-diffusion draws and does not use are drawn too, so that generators are left alike.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from math import atan
from typing import Any

import torch
from torch import Tensor

from diffusolve.errors import unknown_name
from diffusolve.k_diffusion.arguments import explain_arguments
from diffusolve.k_diffusion.likelihood import log_likelihood, to_d
from diffusolve.k_diffusion.loop import (
    AFTER_PURE_NOISE,
    AdaptiveRun,
    Callback,
    ExtraArgs,
    Model,
    NoiseSampler,
    StepNoise,
    after_each_evaluation,
    after_each_step,
    as_the_run_does,
    before_each_step,
    fast_plan,
    follow,
    is_of_comfyui,
    part_and_whole,
    run_solver,
    two_ends,
    whole_steps,
    with_numbers,
)
from diffusolve.k_diffusion.noise import BatchedBrownianTree, BrownianTreeNoiseSampler
from diffusolve.k_diffusion.schedules import (
    append_zero,
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
)
from diffusolve.k_diffusion.utils import append_dims
from diffusolve.plan import Stage
from diffusolve.solvers import (
    dpm_2,
    dpm_adaptive,
    dpm_fast,
    dpmpp_2s_ancestral,
    dpmpp_multistep,
    dpmpp_sde,
    euler,
    heun,
    lms,
)
from diffusolve.solvers.dpm_adaptive import PIDController
from diffusolve.solvers.linear_multistep import adams_weights

__all__ = [
    "BatchedBrownianTree",
    "BrownianTreeNoiseSampler",
    "PIDStepSizeController",
    "append_dims",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "linear_multistep_coeff",
    "log_likelihood",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "sample_lms",
    "to_d",
]

# One step after the other


@torch.no_grad()
def sample_euler(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
) -> Tensor:
    """Karras et al. 2022, algorithm 2 with steps of first order; without churn it is DDIM (A1111: "Euler")."""
    solver = with_numbers(euler, s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, default_noise_sampler(x), before_each_step
    )


@torch.no_grad()
def sample_euler_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Euler's method to less noise than asked for, then fresh noise; DDPM's posterior (A1111: "Euler a")."""
    solver = with_numbers(euler, eta=eta, s_noise=s_noise).with_options(ancestral="rectified")
    noise_sampler = noise_sampler or default_noise_sampler(x)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, after_each_step, flow=None
    )


@torch.no_grad()
def sample_heun(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
) -> Tensor:
    """Karras et al. 2022, algorithm 2: Heun's method of second order (A1111: "Heun")."""
    solver = with_numbers(heun, s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, default_noise_sampler(x), before_each_step
    )


@torch.no_grad()
def sample_dpm_2(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver-2 (Lu et al. 2022, algorithm 1) with the churn of Karras et al. 2022 (A1111: "DPM2")."""
    solver = with_numbers(dpm_2, s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, default_noise_sampler(x), before_each_step
    )


@torch.no_grad()
def sample_dpm_2_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-2 to less noise than asked for, then fresh noise (A1111: "DPM2 a")."""
    solver = with_numbers(dpm_2, eta=eta, s_noise=s_noise).with_options(ancestral="rectified")
    noise_sampler = noise_sampler or default_noise_sampler(x)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, after_each_step, flow=None
    )


@torch.no_grad()
def sample_lms(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    order: int = 4,
) -> Tensor:
    """Adams-Bashforth with variable steps, of the last `order` slopes (A1111: "LMS").

    On a model of ComfyUI's the step to sigma = 0 is of first order, as there.
    """
    solver = lms.with_options(order=order, ends_with_data=is_of_comfyui(model))
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_dpmpp_2s_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022) to less noise than asked for, then fresh noise (A1111: "DPM++ 2S a")."""
    solver = with_numbers(dpmpp_2s_ancestral, eta=eta, s_noise=s_noise).with_options(
        ancestral="rectified", first_middle=0.9999
    )
    noise_sampler = noise_sampler or default_noise_sampler(x)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, after_each_step, flow=None
    )


@torch.no_grad()
def sample_dpmpp_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 1 / 2,
) -> Tensor:
    """DPM-Solver++ with two evaluations a step and noise at both (A1111: "DPM++ SDE").

    The network is asked at the part `r` of each step in log sigma. The noise must follow one path, as the default's
    does: that of the first part of a step belongs to that of the whole step.
    """
    solver = with_numbers(dpmpp_sde, eta=eta, s_noise=s_noise, r=r).with_options(noise="path", **AFTER_PURE_NOISE)
    intervals = partial(part_and_whole, r=r)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler,
        after_each_evaluation,
        intervals,
        flow=None,
    )


@torch.no_grad()
def sample_dpmpp_2m(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2 (A1111: "DPM++ 2M")."""
    return run_solver(DPMPP_M, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_dpmpp_2m_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "midpoint",
) -> Tensor:
    """DPM-Solver++(2M) of the SDE (A1111: "DPM++ 2M SDE"; with `solver_type` "heun" "DPM++ 2M SDE Heun")."""
    solver = with_numbers(DPMPP_M_SDE, eta=eta, s_noise=s_noise).with_options(solver_type=solver_type)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, as_the_run_does, flow=None
    )


@torch.no_grad()
def sample_dpmpp_3m_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver++(3M) of the SDE (A1111: "DPM++ 3M SDE").

    As in k-diffusion the second derivative has half of its weight, which makes it a method of second order.
    """
    solver = with_numbers(DPMPP_3M, eta=eta, s_noise=s_noise)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, as_the_run_does, flow=None
    )


DPMPP_M = dpmpp_multistep.with_options(lower_order_final=False)
DPMPP_M_SDE = DPMPP_M.with_options(**AFTER_PURE_NOISE)
DPMPP_3M = DPMPP_M_SDE.with_options(order=3, third_order="authors", solver_type="heun")


# From one noise level to another


@torch.no_grad()
def sample_dpm_fast(
    model: Model,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    n: int,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-fast (Lu et al. 2022): `n` evaluations from `sigma_max` down to `sigma_min` (A1111: "DPM fast").

    The callback gets the place on the way as `t`, minus the logarithm of sigma, too.

    Raises:
        ValueError: `n` below 1, or not ``0 < sigma_min < sigma_max``.
    """
    plan = fast_plan(with_numbers(dpm_fast, eta=eta, s_noise=s_noise), float(sigma_min), float(sigma_max), int(n))
    sigmas = torch.tensor(plan.sigmas, device=x.device)
    noise = StepNoise(noise_sampler or default_noise_sampler(x), lambda: whole_steps(sigmas))

    def describe(stage: Stage) -> dict[str, Any]:
        t = torch.tensor(stage.point.log_snr, device=x.device)
        return {"sigma": sigmas[stage.step], "sigma_hat": sigmas[stage.step], "t": t, "t_up": t}

    due, ends = after_each_step(plan), range(1, plan.nfe + 1)
    return follow(plan, model, x, extra_args, callback, disable, noise, due, describe, ends)


@torch.no_grad()
def sample_dpm_adaptive(
    model: Model,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, dict[str, int]]:
    """DPM-Solver with steps chosen by a PID controller, `sigma_max` to `sigma_min` (A1111: "DPM adaptive").

    The options are those of :func:`diffusolve.solvers.dpm_adaptive`. The callback is called after each step tried: `x`
    and `sigma` are then where the next one begins, `denoised` is the prediction where this one began, `t` is minus the
    logarithm of sigma, `error` is in units of the tolerance, `h` is the next step's length in log sigma; `steps`,
    `n_accept`, `n_reject` and `nfe` count steps and evaluations so far. With `return_info` a dictionary of these counts
    comes back besides the sample. A point is evaluated once, even if a step from there is rejected, so `nfe` is less
    than in k-diffusion, by `n_reject`.

    Raises:
        ValueError: not ``0 < sigma_min < sigma_max``, or an option that the solver cannot have.
    """
    options = {"pcoeff": pcoeff, "icoeff": icoeff, "dcoeff": dcoeff, "accept_safety": accept_safety}
    solver = with_numbers(dpm_adaptive, rtol=rtol, atol=atol, h_init=h_init, eta=eta, s_noise=s_noise, **options)
    grid = two_ends(float(sigma_min), float(sigma_max), 1)
    run = AdaptiveRun(model, x, extra_args or {}, callback, noise_sampler or default_noise_sampler(x))
    result = run.follow(solver.with_options(order=order), grid, disable)
    return (result, run.counts) if return_info else result


# What they are made of


def default_noise_sampler(x: Tensor) -> NoiseSampler:
    """Noise like `x` from PyTorch's global generator, whatever the sigmas."""
    return lambda sigma, sigma_next: torch.randn_like(x)


def get_ancestral_step(sigma_from: Any, sigma_to: Any, eta: float = 1.0) -> tuple[Any, Any]:
    """(sigma_down, sigma_up) of an ancestral step: step down to the first, then add fresh noise of the second.

    Their squares add up to that of `sigma_to`. Song et al. 2021, DDIM, equation 16, where alpha is 1.

    Args:
        sigma_from, sigma_to: numbers, or tensors of shape (); the first is the greater.
        eta: 0 adds no noise, 1 as much as the posterior of the forward process has.
    """
    if not eta:
        return sigma_to, 0.0
    sigma_up = min(sigma_to, eta * sigma_to / sigma_from * (sigma_from**2 - sigma_to**2) ** 0.5)
    return (sigma_to**2 - sigma_up**2) ** 0.5, sigma_up


def linear_multistep_coeff(order: int, t: Sequence[float], i: int, j: int) -> float:
    """The weight of the slope at ``t[i - j]`` in the Adams-Bashforth step of `order` from ``t[i]`` to ``t[i + 1]``.

    Raises:
        ValueError: there are not as many slopes yet.
    """
    if not 0 <= j < order <= i + 1:
        raise ValueError(f"step {i} has no slope {j} back in order {order}: expected 0 <= j < order <= i + 1.")
    return adams_weights([float(t[i - k]) for k in range(order)], float(t[i + 1]))[j]


class PIDStepSizeController(PIDController):
    """The controller of :func:`sample_dpm_adaptive` (Soderlind 2003); `h` is the size of the next step."""

    def __init__(
        self,
        h: float,
        pcoeff: float,
        icoeff: float,
        dcoeff: float,
        order: float = 1,
        accept_safety: float = 0.81,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(h, pcoeff, icoeff, dcoeff, order, accept_safety, eps)

    def limiter(self, x: float) -> float:
        """The factor `x` of the step size, kept within (0, 1 + pi / 2)."""
        return 1 + atan(x - 1)

    def propose_step(self, error: Any) -> bool:
        """Take note of a step's error in units of the tolerance, set `h`, and say whether the step is accepted."""
        return self.propose(float(error))


def __getattr__(name: str) -> Any:
    """ComfyUI's functions, which are built on this module's."""
    if not name.startswith("sample_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    comfyui = importlib.import_module("diffusolve.k_diffusion.comfyui")
    if name not in comfyui.__all__:
        hint = unknown_name("function", name, [*__all__, *comfyui.__all__])
        raise AttributeError(f"module {__name__!r}: {hint}")
    return getattr(comfyui, name)


def __dir__() -> list[str]:
    comfyui = importlib.import_module("diffusolve.k_diffusion.comfyui")
    return sorted({*globals(), *comfyui.__all__})


for _name in __all__:
    if _name.startswith("sample_"):
        explain_arguments(globals()[_name])
