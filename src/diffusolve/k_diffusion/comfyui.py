"""The functions that ComfyUI's ``k_diffusion.sampling`` has beside k-diffusion's own, with the same arguments.

They can be found in :mod:`diffusolve.k_diffusion.sampling` too. The functions with ``cfg_pp`` or ``cfgpp`` in their
names need a model that tells its prediction without guidance as ComfyUI's models do
(:class:`~diffusolve.k_diffusion.loop.Unguided`).

They do what ComfyUI's do, slips included (docs/coming-from-comfyui.md lists these). Those with ``_RF`` in their names
are for samples of flow matching, ``(1 - sigma) * x0 + sigma * noise``; on such models the functions of the same name
without it do what they do. A model of ComfyUI's tells of which kind its samples are
(:func:`~diffusolve.k_diffusion.loop.is_on_flow`), and of others alpha is 1. Functions that say ``flow=None`` ask it;
the others step in sigma as if alpha were 1 on both kinds, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusolve.k_diffusion.arguments import explain_arguments
from diffusolve.k_diffusion.loop import (
    AFTER_PURE_NOISE,
    Callback,
    ExtraArgs,
    Model,
    NoiseSampler,
    after_each_evaluation,
    after_each_step,
    as_the_run_does,
    before_each_step,
    parts,
    run_solver,
    sampling_of,
    whole_steps,
    with_numbers,
)
from diffusolve.k_diffusion.sampling import (
    DPMPP_M,
    default_noise_sampler,
    sample_dpmpp_2m_sde,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
)
from diffusolve.solvers import (
    Solver,
    deis,
    dpm_2,
    dpmpp_2s_ancestral,
    er_sde,
    euler,
    gradient_estimation,
    heunpp2,
    ipndm,
    ipndm_v,
    lcm,
    res_multistep,
    sa_solver,
    seeds_2,
    seeds_3,
    ud10_ab,
)

__all__ = [
    "sample_cfgpp_ud10_ab",
    "sample_ddpm",
    "sample_deis",
    "sample_dpm_2_ancestral_RF",
    "sample_dpmpp_2m_cfg_pp",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
    "sample_dpmpp_2s_ancestral_RF",
    "sample_dpmpp_2s_ancestral_cfg_pp",
    "sample_dpmpp_3m_sde_gpu",
    "sample_dpmpp_sde_gpu",
    "sample_er_sde",
    "sample_euler_ancestral_RF",
    "sample_euler_ancestral_cfg_pp",
    "sample_euler_cfg_pp",
    "sample_exp_heun_2_x0",
    "sample_exp_heun_2_x0_sde",
    "sample_gradient_estimation",
    "sample_gradient_estimation_cfg_pp",
    "sample_heunpp2",
    "sample_ipndm",
    "sample_ipndm_v",
    "sample_lcm",
    "sample_res_multistep",
    "sample_res_multistep_ancestral",
    "sample_res_multistep_ancestral_cfg_pp",
    "sample_res_multistep_cfg_pp",
    "sample_sa_solver",
    "sample_sa_solver_pece",
    "sample_seeds_2",
    "sample_seeds_3",
]


@torch.no_grad()
def sample_ddpm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Ancestral sampling of DDPM (Ho et al. 2020), which is Euler ancestral with `eta` 1."""
    solver = euler.with_options(eta=1.0)
    noise_sampler = noise_sampler or default_noise_sampler(x)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, after_each_step)


@torch.no_grad()
def sample_lcm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Multistep consistency sampling (Luo et al. 2023): the data prediction, and all of the next point's noise."""
    noise_sampler = noise_sampler or default_noise_sampler(x)
    return run_solver(lcm, model, x, sigmas, extra_args, callback, disable, noise_sampler, after_each_step, flow=None)


@torch.no_grad()
def sample_heunpp2(
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
    """Heun's method with a third slope, at the end of the step that follows (Heun++)."""
    solver = with_numbers(heunpp2, s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, default_noise_sampler(x), before_each_step
    )


@torch.no_grad()
def sample_ipndm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """Adams-Bashforth with the weights of equal steps (Zhang & Chen 2022, iPNDM)."""
    solver = ipndm.with_options(max_order=max_order)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_ipndm_v(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """Adams-Bashforth with weights that are meant to be those of the steps as they are."""
    solver = ipndm_v.with_options(max_order=max_order, misplaced=True)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_euler_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
) -> Tensor:
    """Euler's method of CFG++ (Chung et al. 2024): guided data, renoised without guidance."""
    solver = euler.with_options(cfg_pp=True)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, flow=None)


@torch.no_grad()
def sample_cfgpp_ud10_ab(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
) -> Tensor:
    """Euler's method of CFG++ that leans on the step before: noise by 0.1, slopes by 0.25, the end on a line."""
    solver = ud10_ab.with_options(cfg_pp=True, noise_weight=0.1)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, flow=None)


@torch.no_grad()
def sample_dpmpp_2m_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M) of CFG++."""
    solver = DPMPP_M.with_options(cfg_pp=True, unguided_past=True)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_gradient_estimation(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
    cfg_pp: bool = False,
) -> Tensor:
    """Euler's method with the slope extrapolated by `ge_gamma` (Permenter & Yuan 2023)."""
    solver = with_numbers(gradient_estimation, ge_gamma=ge_gamma).with_options(cfg_pp=cfg_pp)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_gradient_estimation_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
) -> Tensor:
    """Gradient estimation of CFG++."""
    return sample_gradient_estimation(model, x, sigmas, extra_args, callback, disable, ge_gamma, cfg_pp=True)


@torch.no_grad()
def sample_res_multistep(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """RES, multistep, of second order (Zhang et al. 2023)."""
    solver = with_numbers(res_multistep, s_noise=s_noise)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_res_multistep_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """RES, multistep, of second order of CFG++ (Zhang et al. 2023)."""
    solver = with_numbers(res_multistep, s_noise=s_noise).with_options(cfg_pp=True, unguided_past=True)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_dpmpp_2m_sde_heun(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "heun",
) -> Tensor:
    """DPM-Solver++(2M) of the SDE, with the line through two data predictions integrated exactly."""
    noise = (eta, s_noise, noise_sampler)
    return sample_dpmpp_2m_sde(model, x, sigmas, extra_args, callback, disable, *noise, solver_type)


@torch.no_grad()
def sample_er_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    noise_scaler: Any = None,
    max_stage: int = 3,
) -> Tensor:
    """ER-SDE-Solver (Cui et al. 2023), up to order `max_stage`.

    Raises:
        ValueError: a `noise_scaler`, which is a function there: the solver has named ones.
    """
    solver = with_numbers(er_sde, s_noise=s_noise).with_options(
        max_stage=max_stage, third_order="authors", points=200, **AFTER_PURE_NOISE
    )
    if noise_scaler is not None:
        raise ValueError(f"noise_scaler is {noise_scaler!r}: expected None; diffusolve.solvers.er_sde has named ones.")
    noise_sampler = noise_sampler or default_noise_sampler(x)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, after_each_step, flow=None
    )


@torch.no_grad()
def sample_seeds_2(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 0.5,
    solver_type: str = "phi_1",
) -> Tensor:
    """SEEDS-2 (Gonzalez et al. 2023), with the second evaluation at the part `r` of a step in log sigma."""
    solver = with_numbers(seeds_2, eta=eta, s_noise=s_noise, r=r).with_options(
        solver_type=solver_type, **AFTER_PURE_NOISE
    )
    noise_sampler = noise_sampler or default_noise_sampler(x)
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
        parts(r),
        flow=None,
    )


@torch.no_grad()
def sample_seeds_3(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r_1: float = 1.0 / 3,
    r_2: float = 2.0 / 3,
) -> Tensor:
    """SEEDS-3 (Gonzalez et al. 2023), with evaluations at the parts `r_1` and `r_2` of a step in log sigma."""
    solver = with_numbers(seeds_3, eta=eta, s_noise=s_noise, r_1=r_1, r_2=r_2).with_options(**AFTER_PURE_NOISE)
    noise_sampler = noise_sampler or default_noise_sampler(x)
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
        parts(r_1, r_2),
        flow=None,
    )


@torch.no_grad()
def sample_exp_heun_2_x0(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    solver_type: str = "phi_2",
) -> Tensor:
    """Exponential Heun: SEEDS-2 of the ODE with the second evaluation at the end of the step."""
    solver = seeds_2.with_options(eta=0.0, r=1.0, solver_type=solver_type, **AFTER_PURE_NOISE)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, flow=None)


@torch.no_grad()
def sample_exp_heun_2_x0_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "phi_2",
) -> Tensor:
    """Exponential Heun of the SDE. Noise is drawn twice for a step, and used once, as there."""
    solver = with_numbers(seeds_2, eta=eta, s_noise=s_noise, r=1.0).with_options(
        solver_type=solver_type, **AFTER_PURE_NOISE
    )
    noise_sampler = noise_sampler or default_noise_sampler(x)
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
        parts(1.0),
        flow=None,
    )


@torch.no_grad()
def sample_deis(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = None,
    max_order: int = 3,
    deis_mode: str = "tab",
) -> Tensor:
    """DEIS with polynomials in time (Zhang & Chen 2022, tAB).

    Raises:
        ValueError: another `deis_mode` than "tab".
    """
    if deis_mode != "tab":
        raise ValueError(f"deis_mode is {deis_mode!r}: expected 'tab', what ComfyUI's sampler of that name takes.")
    solver = deis.with_options(order=max_order, polynomial="time")
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_sa_solver(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = False,
    tau_func: Callable[[float], float] | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> Tensor:
    """SA-Solver (Xue et al. 2023). Noise is drawn in steps with a tau above 0 alone.

    Raises:
        ValueError: no `tau_func`, and a model that does not tell its training time as ComfyUI's do.
    """
    tau_func = tau_func or _tau_of(model)
    taus = [float(tau_func(sigma)) for sigma in sigmas[1:].tolist()]
    solver = with_numbers(sa_solver, s_noise=s_noise).with_options(
        predictor_order=predictor_order,
        corrector_order=corrector_order,
        use_pece=use_pece,
        simple_order_2=simple_order_2,
        lower_order_final=True,
        counts_last=False,
        longest_step=inf,
        taus=tuple(taus),
        **AFTER_PURE_NOISE,
    )

    def noisy(sigmas: Tensor, flow: bool) -> list[tuple[Tensor, Tensor]]:
        return [step for step, tau in zip(whole_steps(sigmas, flow), taus, strict=True) if tau > 0]

    noise_sampler = noise_sampler or default_noise_sampler(x)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, as_the_run_does, noisy, flow=None
    )


@torch.no_grad()
def sample_sa_solver_pece(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs = None,
    callback: Callback = None,
    disable: bool | None = False,
    tau_func: Callable[[float], float] | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    simple_order_2: bool = False,
) -> Tensor:
    """SA-Solver that evaluates the corrected sample too (predict, evaluate, correct, evaluate)."""
    orders = (predictor_order, corrector_order, True, simple_order_2)
    return sample_sa_solver(model, x, sigmas, extra_args, callback, disable, tau_func, s_noise, noise_sampler, *orders)


def _tau_of(model: Model) -> Callable[[float], float]:
    """Tau 1 between 20 and 80 % of the training time, which ComfyUI's models tell."""
    try:
        told = sampling_of(model)
        start, end = float(told.percent_to_sigma(0.2)), float(told.percent_to_sigma(0.8))
    except AttributeError:
        raise ValueError(
            "tau_func is missing, and the model does not tell its training time as ComfyUI's do: give "
            "tau_func=lambda sigma: 1.0 for the SDE, or 0.0 for the ODE."
        ) from None
    return lambda sigma: 1.0 if start >= sigma >= end else 0.0


# Ancestral, in one frame


class Ancestral(Protocol):
    """A function with fresh noise after each step."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        sigmas: Tensor,
        extra_args: ExtraArgs = None,
        callback: Callback = None,
        disable: bool | None = None,
        eta: float = 1.0,
        s_noise: float = 1.0,
        noise_sampler: NoiseSampler | None = None,
    ) -> Tensor: ...


def _ancestral(name: str, solver: Solver, summary: str, *, flow: bool | None = False) -> Ancestral:
    """The function `name`: `solver` with fresh noise after each step; on samples of flow matching if `flow`.

    With ``flow=None`` the model tells which samples are its own.
    """

    @torch.no_grad()
    def function(
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
        numbered = with_numbers(solver, eta=eta, s_noise=s_noise)
        noise = noise_sampler or default_noise_sampler(x)
        return run_solver(numbered, model, x, sigmas, extra_args, callback, disable, noise, after_each_step, flow=flow)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = summary
    return function


sample_euler_ancestral_cfg_pp = _ancestral(
    "sample_euler_ancestral_cfg_pp",
    euler.with_options(cfg_pp=True),
    "Euler ancestral of CFG++ (Chung et al. 2024).",
    flow=None,
)
sample_dpmpp_2s_ancestral_cfg_pp = _ancestral(
    "sample_dpmpp_2s_ancestral_cfg_pp",
    dpmpp_2s_ancestral.with_options(cfg_pp=True, latest_unguided=True),
    "DPM-Solver++(2S) ancestral of CFG++.",
)
sample_res_multistep_ancestral = _ancestral(
    "sample_res_multistep_ancestral",
    res_multistep,
    "RES, multistep, to less noise than asked for, then fresh noise.",
)
sample_res_multistep_ancestral_cfg_pp = _ancestral(
    "sample_res_multistep_ancestral_cfg_pp",
    res_multistep.with_options(cfg_pp=True, unguided_past=True),
    "RES, multistep, to less noise than asked for, then fresh noise, of CFG++.",
)
sample_euler_ancestral_RF = _ancestral(
    "sample_euler_ancestral_RF",
    euler.with_options(ancestral="rectified"),
    "Euler ancestral for flow matching.",
    flow=True,
)
sample_dpm_2_ancestral_RF = _ancestral(
    "sample_dpm_2_ancestral_RF",
    dpm_2.with_options(ancestral="rectified"),
    "DPM-Solver-2 ancestral for flow matching.",
    flow=True,
)
sample_dpmpp_2s_ancestral_RF = _ancestral(
    "sample_dpmpp_2s_ancestral_RF",
    dpmpp_2s_ancestral.with_options(ancestral="rectified", first_middle=0.9999),
    "DPM-Solver++(2S) ancestral for flow matching.",
    flow=True,
)


# The same functions by other names: noise is made on the device of `x` in any case

sample_dpmpp_sde_gpu = sample_dpmpp_sde
sample_dpmpp_2m_sde_gpu = sample_dpmpp_2m_sde
sample_dpmpp_2m_sde_heun_gpu = sample_dpmpp_2m_sde_heun
sample_dpmpp_3m_sde_gpu = sample_dpmpp_3m_sde


for _name in __all__:
    if globals()[_name].__name__ == _name:
        explain_arguments(globals()[_name])
