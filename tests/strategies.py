"""What property-based tests draw from: noise schedules, spacings, solvers with options, predictions, grids."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from diffusolve.errors import SingularPointError
from diffusolve.noise import BETA_SCHEDULES, Cosine, FlowMatching, NoiseSchedule, VarianceExploding, VariancePreserving
from diffusolve.prediction import EDM, Epsilon, Flow, Prediction, Sample, VPrediction
from diffusolve.sampling import Sampler
from diffusolve.solvers import (
    Solver,
    deis,
    dpm_2,
    dpm_fast,
    dpm_singlestep,
    dpmpp_2s_ancestral,
    dpmpp_multistep,
    dpmpp_sde,
    dpmpp_singlestep,
    epd,
    er_sde,
    euler,
    exp_heun_2_x0,
    gradient_estimation,
    heun,
    heunpp2,
    ipndm,
    ipndm_v,
    lcm,
    lms,
    res_multistep,
    res_singlestep,
    sa_solver,
    seeds_2,
    seeds_3,
    ud10_ab,
    unipc,
)
from diffusolve.solvers.pndm import pndm
from diffusolve.spacing import (
    FINAL_SIGMAS,
    Beta,
    BetaSigmas,
    BongTangent,
    Exponential,
    Karras,
    KLOptimal,
    Leading,
    LinearQuadratic,
    Linspace,
    Polyexponential,
    Sigmas,
    Simple,
    Spacing,
    Timesteps,
    Trailing,
    UniformLogSNR,
)

variance_preserving: st.SearchStrategy[NoiseSchedule] = st.builds(
    VariancePreserving,
    beta_schedule=st.sampled_from(sorted(BETA_SCHEDULES)),
    beta_start=st.floats(1e-5, 1e-3),
    beta_end=st.floats(0.005, 0.05),
    num_train_timesteps=st.integers(60, 400),
    rescale_betas_zero_snr=st.booleans(),
)
trained: st.SearchStrategy[NoiseSchedule] = st.builds(
    VariancePreserving, trained_betas=st.lists(st.floats(1e-4, 0.2), min_size=60, max_size=80).map(tuple)
)
variance_exploding: st.SearchStrategy[NoiseSchedule] = st.builds(
    VarianceExploding,
    sigma_min=st.floats(1e-3, 0.05),
    sigma_max=st.floats(5.0, 100.0),
    conditioning=st.sampled_from(["sigma", "log_sigma", "edm"]),
)
flow_matching: st.SearchStrategy[NoiseSchedule] = st.builds(
    FlowMatching, shift=st.floats(0.2, 8.0), num_train_timesteps=st.integers(60, 1000)
)
cosine: st.SearchStrategy[NoiseSchedule] = st.builds(
    Cosine, log_snr_shift=st.floats(-2.0, 2.0), num_train_timesteps=st.integers(60, 1000)
)
noise_schedules = st.one_of(variance_preserving, trained, variance_exploding, flow_matching, cosine)

unit = st.floats(0.01, 1.0)
plannable_solvers: st.SearchStrategy[Solver] = st.one_of(
    st.builds(euler.with_options, eta=st.one_of(st.just(0.0), unit), s_noise=st.floats(0.5, 1.5), cfg_pp=st.booleans()),
    st.just(heun),
    st.builds(dpm_2.with_options, eta=st.one_of(st.just(0.0), unit), s_noise=st.floats(0.5, 1.5)),
    st.builds(
        dpmpp_sde.with_options,
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        r=st.floats(0.2, 0.8),
        noise=st.sampled_from(["disjoint", "path"]),
    ),
    st.builds(
        dpmpp_2s_ancestral.with_options,
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        r=st.floats(0.2, 0.8),
        cfg_pp=st.booleans(),
    ),
    st.builds(lms.with_options, order=st.integers(1, 4)),
    st.builds(pndm.with_options, start=st.sampled_from(["runge_kutta", "improved_euler"])),
    st.builds(
        deis.with_options,
        order=st.integers(1, 4),
        lower_order_final=st.booleans(),
        polynomial=st.sampled_from(["log_rho", "time"]),
    ),
    st.builds(
        dpm_singlestep.with_options,
        order=st.integers(1, 3),
        solver_type=st.sampled_from(["midpoint", "heun"]),
        earliest_midpoint=st.floats(0.0, 1.0),
    ),
    st.builds(
        dpmpp_singlestep.with_options,
        order=st.integers(1, 3),
        solver_type=st.sampled_from(["midpoint", "heun"]),
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        noise=st.sampled_from(["disjoint", "path"]),
    ),
    st.builds(
        dpmpp_multistep.with_options,
        order=st.integers(1, 3),
        solver_type=st.sampled_from(["midpoint", "heun"]),
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        lower_order_final=st.booleans(),
        cfg_pp=st.booleans(),
    ),
    st.just(heunpp2),
    st.builds(ipndm.with_options, max_order=st.integers(1, 4)),
    st.builds(ipndm_v.with_options, max_order=st.integers(1, 4)),
    st.builds(gradient_estimation.with_options, ge_gamma=st.floats(0.5, 3.0), cfg_pp=st.booleans()),
    st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3).map(lambda parts: epd.with_options(points=tuple(parts))),
    st.builds(
        ud10_ab.with_options,
        noise_weight=st.floats(0.0, 0.5),
        slope_weight=st.floats(0.0, 1.0),
        end_weight=st.floats(0.0, 1.0),
        cfg_pp=st.booleans(),
    ),
    st.builds(lcm.with_options, s_noise=st.floats(0.5, 1.5)),
    st.builds(exp_heun_2_x0.with_options, eta=st.one_of(st.just(0.0), unit), s_noise=st.floats(0.5, 1.5)),
    st.builds(res_singlestep.with_options, order=st.integers(2, 3), c_2=st.floats(0.2, 0.6), c_3=st.floats(0.7, 1.0)),
    st.builds(
        res_multistep.with_options,
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        cfg_pp=st.booleans(),
    ),
    st.builds(
        er_sde.with_options,
        max_stage=st.integers(1, 3),
        noise_scaler=st.sampled_from(["er_sde", "reverse_time_sde"]),
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        third_order=st.sampled_from(["taylor", "authors"]),
    ),
    st.builds(
        seeds_2.with_options,
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        r=st.floats(0.2, 1.0),
        solver_type=st.sampled_from(["phi_1", "phi_2"]),
    ),
    st.builds(
        seeds_3.with_options,
        eta=st.one_of(st.just(0.0), unit),
        s_noise=st.floats(0.5, 1.5),
        r_1=st.floats(0.2, 0.4),
        r_2=st.floats(0.5, 0.8),
    ),
    st.builds(
        sa_solver.with_options,
        predictor_order=st.integers(1, 4),
        corrector_order=st.integers(0, 4),
        use_pece=st.booleans(),
        eta=st.one_of(st.just(0.0), unit),
        sde_start_percent=st.just(0.0),
        sde_end_percent=st.just(1.0),
        s_noise=st.floats(0.5, 1.5),
        simple_order_2=st.booleans(),
        lower_order_final=st.booleans(),
    ),
    st.builds(
        unipc.with_options,
        order=st.integers(1, 4),
        variant=st.sampled_from(["bh1", "bh2"]),
        form=st.sampled_from(["data", "noise"]),
        corrector=st.booleans(),
        uncorrected=st.sets(st.integers(0, 5)).map(lambda steps: tuple(sorted(steps))),
        lower_order_final=st.booleans(),
    ),
)
churn: dict[str, st.SearchStrategy[float]] = {
    "s_churn": st.floats(0.1, 40.0),
    "s_tmin": st.floats(0.0, 1.0),
    "s_tmax": st.one_of(st.just(math.inf), st.floats(1.0, 50.0)),
    "s_noise": st.floats(0.5, 1.5),
}
solvers_off_the_grid: st.SearchStrategy[Solver] = st.one_of(
    st.builds(euler.with_options, eta=st.one_of(st.just(0.0), unit), cfg_pp=st.booleans(), **churn),
    st.builds(heun.with_options, **churn),
    st.builds(dpm_2.with_options, eta=st.one_of(st.just(0.0), unit), **churn),
    st.builds(dpm_fast.with_options, eta=st.one_of(st.just(0.0), unit), s_noise=st.floats(0.5, 1.5)),
)
"""Solvers whose steps do not all begin at points of the grid."""
predictions: st.SearchStrategy[Prediction] = st.one_of(
    st.sampled_from([Epsilon(), Sample(), VPrediction(), Flow()]), st.builds(EDM, sigma_data=st.floats(0.2, 2.0))
)


def spacings(noise_schedule: NoiseSchedule, steps: int) -> st.SearchStrategy[Spacing]:
    """Spacings that can divide `noise_schedule` into `steps` steps."""
    by_index: list[Spacing] = [
        Linspace(),
        Linspace(to_first=False),
        Linspace(to_first=False, final_sigma="sigma_min"),
        Leading(),
        Trailing(),
        Simple(),
        Beta(),
    ]
    high = noise_schedule.sigma_max
    if not math.isfinite(high):
        high = 50.0
    elif isinstance(noise_schedule, FlowMatching):
        high = 0.998
    ranges: dict[str, Any] = {"sigma_max": high}
    by_sigma: list[Spacing] = [
        made
        for final_sigma in ("zero", "sigma_min")
        for made in (
            Karras(final_sigma=final_sigma, **ranges),
            Exponential(final_sigma=final_sigma, **ranges),
            Polyexponential(rho=1.5, final_sigma=final_sigma, **ranges),
            UniformLogSNR(final_sigma=final_sigma, **ranges),
            BetaSigmas(final_sigma=final_sigma, **ranges),
            KLOptimal(final_sigma=final_sigma, sigma_data=0.5, **ranges),
            KLOptimal(final_sigma=final_sigma, of="ratio", **ranges),
        )
    ]
    if isinstance(noise_schedule, FlowMatching):
        by_sigma += [
            curve(final_sigma=final_sigma) for curve in (LinearQuadratic, BongTangent) for final_sigma in FINAL_SIGMAS
        ]
    custom_sigmas = st.lists(
        st.floats(noise_schedule.sigma_min, high), min_size=steps, max_size=steps, unique_by=lambda s: round(s, 3)
    ).map(lambda sigmas: Sigmas((*sorted(sigmas, reverse=True), 0.0)))
    first, last = (float(t) for t in noise_schedule.timestep([noise_schedule.sigma_min, high]))
    custom_timesteps = st.lists(
        st.floats(first, last), min_size=steps, max_size=steps, unique_by=lambda t: round(100 * t / (last - first))
    ).map(lambda times: Timesteps(tuple(sorted(times, reverse=True))))
    return st.one_of(st.sampled_from(by_index), st.sampled_from(by_sigma), custom_sigmas, custom_timesteps)


@st.composite
def recipes(
    draw: st.DrawFn, solvers: st.SearchStrategy[Solver] = plannable_solvers
) -> tuple[Sampler, NoiseSchedule, Prediction, int]:
    """A sampler that has a plan, and what to plan it with."""
    noise_schedule = draw(noise_schedules)
    steps = draw(st.integers(1, 30))
    sampler = Sampler(draw(solvers), draw(spacings(noise_schedule, steps)))
    prediction = draw(predictions)
    try:
        prediction.conversion(sampler.grid(noise_schedule, steps)[0])
    except SingularPointError:
        prediction = VPrediction()  # epsilon says nothing about the data where alpha is 0
    return sampler, noise_schedule, prediction, steps
