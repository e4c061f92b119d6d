"""The functions that ComfyUI's ``k_diffusion.sampling`` has beside k-diffusion's own, with the same arguments.

They can be found in :mod:`diffusolve.k_diffusion.sampling` too. The functions with ``_cfg_pp`` in their names need a
model that tells its prediction without guidance as ComfyUI's models do
(:class:`~diffusolve.k_diffusion.loop.Unguided`).

Where ComfyUI departs from a method's formulas these keep to them: `sample_ipndm_v` has the exact weights of its steps,
and the multistep CFG++ samplers extrapolate the guided data. Not there: ``sample_deis``, ``sample_sa_solver`` and
``sample_sa_solver_pece``, and the three forms for flow matching whose names end in ``_RF``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusolve.k_diffusion.arguments import explain_arguments
from diffusolve.k_diffusion.loop import (
    Callback,
    ExtraArgs,
    Model,
    NoiseSampler,
    after_each_evaluation,
    after_each_step,
    as_the_run_does,
    before_each_step,
    part_and_whole,
    parts,
    run_solver,
    with_numbers,
)
from diffusolve.k_diffusion.sampling import default_noise_sampler
from diffusolve.solvers import (
    dpmpp_2s_ancestral,
    dpmpp_multistep,
    dpmpp_sde,
    er_sde,
    euler,
    gradient_estimation,
    heunpp2,
    ipndm,
    ipndm_v,
    lcm,
    res_multistep,
    seeds_2,
    seeds_3,
)

__all__ = [
    "sample_ddpm",
    "sample_dpmpp_2m_cfg_pp",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
    "sample_dpmpp_2s_ancestral_cfg_pp",
    "sample_dpmpp_3m_sde_gpu",
    "sample_dpmpp_sde_gpu",
    "sample_er_sde",
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
    "sample_seeds_2",
    "sample_seeds_3",
]

DPMPP_M = dpmpp_multistep.with_options(lower_order_final=False)
DPMPP_3M = DPMPP_M.with_options(order=3, third_order="authors", solver_type="heun")


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
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


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
    solver = lcm
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


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
    """Adams-Bashforth with the weights of the steps as they are."""
    solver = ipndm_v.with_options(max_order=max_order)
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
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_euler_ancestral_cfg_pp(
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
    """Euler ancestral of CFG++ (Chung et al. 2024)."""
    solver = with_numbers(euler, eta=eta, s_noise=s_noise).with_options(cfg_pp=True)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


@torch.no_grad()
def sample_dpmpp_2s_ancestral_cfg_pp(
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
    """DPM-Solver++(2S) ancestral of CFG++."""
    solver = with_numbers(dpmpp_2s_ancestral, eta=eta, s_noise=s_noise).with_options(cfg_pp=True)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


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
    solver = DPMPP_M.with_options(cfg_pp=True)
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
    solver = with_numbers(gradient_estimation, ge_gamma=ge_gamma).with_options(cfg_pp=True)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


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
    """RES, multistep, of second order (Zhang et al. 2023). Noise is drawn and not used."""
    solver = with_numbers(res_multistep, s_noise=s_noise)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


@torch.no_grad()
def sample_res_multistep_ancestral(
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
    """RES, multistep, to less noise than asked for, then fresh noise."""
    solver = with_numbers(res_multistep, eta=eta, s_noise=s_noise)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


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
    """RES, multistep, of second order of CFG++ (Zhang et al. 2023). Noise is drawn and not used."""
    solver = with_numbers(res_multistep, s_noise=s_noise).with_options(cfg_pp=True)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


@torch.no_grad()
def sample_res_multistep_ancestral_cfg_pp(
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
    """RES, multistep, to less noise than asked for, then fresh noise of CFG++."""
    solver = with_numbers(res_multistep, eta=eta, s_noise=s_noise).with_options(cfg_pp=True)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
    )


@torch.no_grad()
def sample_dpmpp_2m_sde_gpu(
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
    """DPM-Solver++(2M) of the SDE; the noise is made on the device of `x` in any case."""
    solver = with_numbers(DPMPP_M, eta=eta, s_noise=s_noise).with_options(solver_type=solver_type)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, as_the_run_does)


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
    """DPM-Solver++(2M) of the SDE; the noise is made on the device of `x` in any case."""
    solver = with_numbers(DPMPP_M, eta=eta, s_noise=s_noise).with_options(solver_type=solver_type)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, as_the_run_does)


@torch.no_grad()
def sample_dpmpp_2m_sde_heun_gpu(
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
    """DPM-Solver++(2M) of the SDE; the noise is made on the device of `x` in any case."""
    solver = with_numbers(DPMPP_M, eta=eta, s_noise=s_noise).with_options(solver_type=solver_type)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, as_the_run_does)


@torch.no_grad()
def sample_dpmpp_3m_sde_gpu(
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
    """DPM-Solver++(3M) of the SDE; the noise is made on the device of `x` in any case."""
    solver = with_numbers(DPMPP_3M, eta=eta, s_noise=s_noise)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, as_the_run_does)


@torch.no_grad()
def sample_dpmpp_sde_gpu(
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
    """DPM-Solver++ of the SDE with two evaluations; the noise is made on the device of `x` in any case."""
    solver = with_numbers(dpmpp_sde, eta=eta, s_noise=s_noise, r=r).with_options(noise="path")
    intervals = partial(part_and_whole, r=r)
    return run_solver(
        solver, model, x, sigmas, extra_args, callback, disable, noise_sampler, after_each_evaluation, intervals
    )


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
    solver = with_numbers(er_sde, s_noise=s_noise).with_options(max_stage=max_stage, third_order="authors")
    if noise_scaler is not None:
        raise ValueError(f"noise_scaler is {noise_scaler!r}: expected None; diffusolve.solvers.er_sde has named ones.")
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_step,
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
    solver = with_numbers(seeds_2, eta=eta, s_noise=s_noise, r=r).with_options(solver_type=solver_type)
    intervals = parts(r)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_evaluation,
        intervals,
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
    solver = with_numbers(seeds_3, eta=eta, s_noise=s_noise, r_1=r_1, r_2=r_2)
    intervals = parts(r_1, r_2)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_evaluation,
        intervals,
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
    solver = seeds_2.with_options(eta=0.0, r=1.0, solver_type=solver_type)
    return run_solver(solver, model, x, sigmas, extra_args, callback, disable)


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
    solver = with_numbers(seeds_2, eta=eta, s_noise=s_noise, r=1.0).with_options(solver_type=solver_type)
    intervals = parts(1.0)
    return run_solver(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler or default_noise_sampler(x),
        after_each_evaluation,
        intervals,
    )


for _name in __all__:
    if _name.startswith("sample_"):
        explain_arguments(globals()[_name])
