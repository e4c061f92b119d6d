"""Schedulers of single models and purposes, where the matrix does not reach: what they are, and bad input."""

from __future__ import annotations

import copy

import diffusers
import pytest
import torch

import diffusolve
from diffusolve.noise.cosine import ClampedCosine
from tests.parity.network import StandInNetwork
from tests.schedulers.parity import PROMISED, STABLE_DIFFUSION, difference, theirs


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_ddim_leads_what_ddim_has_inverted_back_to_the_data_the_better_the_more_steps() -> None:
    data, network, errors = 0.5 * noise(1, 4, 8, 8), StandInNetwork(), []
    config = {**STABLE_DIFFUSION, "clip_sample": False}
    inverse, forward = diffusolve.DDIMInverseScheduler(**config), diffusolve.DDIMScheduler(**config)
    for steps in (50, 100, 200):
        x = data
        inverse.set_timesteps(steps)
        for t in inverse.timesteps:
            x = inverse.step(network(x, t), t, x).prev_sample
        assert difference(x, data) > 0.5
        forward.set_timesteps(steps)
        for t in forward.timesteps:
            x = forward.step(network(x, t), t, x).prev_sample
        errors.append(difference(x, data))
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.7 * errors[1]


def test_the_plan_of_an_inversion_is_what_its_steps_do() -> None:
    scheduler, network, x = diffusolve.DDIMInverseScheduler(clip_sample=False), StandInNetwork(), noise(1, 4, 8, 8)
    scheduler.set_timesteps(5)
    run, expected = diffusolve.Run(scheduler.plan), x
    for t in scheduler.timesteps:
        assert run.stage.point.timestep == t
        expected = scheduler.step(network(expected, t), t, expected).prev_sample
        x = run.step(network(x, t), x)
        assert difference(x, expected) < PROMISED


def test_dpm_solver_leads_what_it_has_inverted_back_to_the_data_better_than_ddim() -> None:
    data, network, config = 0.5 * noise(1, 4, 8, 8), StandInNetwork(), {**STABLE_DIFFUSION, "clip_sample": False}
    pairs = {
        "DDIM": (diffusolve.DDIMInverseScheduler(**config), diffusolve.DDIMScheduler(**config)),
        "DPM++ 2M": (
            diffusolve.DPMSolverMultistepInverseScheduler(**STABLE_DIFFUSION),
            diffusolve.DPMSolverMultistepScheduler(**STABLE_DIFFUSION, final_sigmas_type="sigma_min"),
        ),
    }
    errors = {}
    for name, (inverse, forward) in pairs.items():
        x = data
        for scheduler in (inverse, forward):
            scheduler.set_timesteps(100)
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t), t, x).prev_sample
        errors[name] = difference(x, data)
    assert errors["DPM++ 2M"] < 0.5 * errors["DDIM"]


def test_noise_that_a_jump_of_repaint_adds_has_the_variance_of_the_forward_process() -> None:
    scheduler = diffusolve.RePaintScheduler()
    scheduler.set_timesteps(10, jump_length=2, jump_n_sample=2)
    t, x = 300, torch.ones(1, 1, 200, 200)
    jumped = scheduler.undo_step(x, t, generator=torch.Generator().manual_seed(0))
    kept = float(scheduler.alphas_cumprod[t + 99] / scheduler.alphas_cumprod[t - 1])
    assert float(jumped.mean()) == pytest.approx(kept**0.5, abs=0.02)
    assert float(jumped.var()) == pytest.approx(1 - kept, rel=0.02)


def test_repaint_keeps_what_the_mask_knows() -> None:
    scheduler, network = diffusolve.RePaintScheduler(clip_sample=False), StandInNetwork()
    scheduler.set_timesteps(10, jump_length=3, jump_n_sample=2)
    picture, x = 0.4 * noise(1, 4, 8, 8, seed=1), noise(1, 4, 8, 8)
    mask = (torch.arange(8) < 4).float().expand(1, 4, 8, 8)
    generator, last = torch.Generator().manual_seed(0), 1000
    for t in scheduler.timesteps.tolist():
        if t < last:
            x = scheduler.step(network(x, torch.tensor(t)), t, x, picture, mask, generator).prev_sample
        else:
            x = scheduler.undo_step(x, last, generator)
        last = t
    torch.testing.assert_close(mask * x, mask * picture)
    assert difference((1 - mask) * x, (1 - mask) * picture) > 0.1


def test_clamped_cosine_tells_timestep_from_sigma_and_the_other_way_round() -> None:
    for power in (1.0, 0.5, 2.0):
        schedule = ClampedCosine(power=power)
        inside = torch.linspace(0.1, 0.9, 9).double().numpy()
        assert schedule.timestep(schedule.sigma(inside)) == pytest.approx(inside, abs=1e-9)
        assert float(schedule.sigma(1.0)) == pytest.approx(9999**0.5)
        assert float(schedule.sigma(0.0)) == pytest.approx((1 / 9999) ** 0.5)
    with pytest.raises(ValueError, match="power is 0"):
        ClampedCosine(power=0.0)


def test_ipndm_with_sigmas_of_its_own_is_as_in_diffusers() -> None:
    for betas in ([1.0, 0.7, 0.4, 0.2, 0.05, 0.0], [0.1, 0.2, 0.3], [0.3, 0.2, 0.9, 0.1]):
        options = {"trained_betas": betas}
        mine, reference = diffusolve.IPNDMScheduler(**options), theirs("IPNDMScheduler", options)
        for scheduler in (mine, reference):
            scheduler.set_timesteps(len(betas) - 1)
        torch.testing.assert_close(mine.timesteps, reference.timesteps)
        torch.testing.assert_close(mine.alphas, reference.alphas)
        x = y = noise(1, 4, 8, 8)
        for t, u in zip(mine.timesteps, reference.timesteps, strict=True):
            network = StandInNetwork(1.0)
            x = mine.step(network(x, t), t, x).prev_sample
            y = reference.step(network(y, u), u, y).prev_sample
            assert difference(x, y) < PROMISED, (betas, t)


def test_a_shallow_copy_of_ipndm_goes_on_from_the_middle_of_a_run() -> None:
    original, x = diffusolve.IPNDMScheduler(), noise(1, 4, 8, 8)
    original.set_timesteps(6)
    for t in original.timesteps[:3]:
        x = original.step(torch.tanh(x), t, x).prev_sample
    results = []
    for scheduler in (original, copy.copy(original)):
        y = x
        for t in scheduler.timesteps[3:].tolist():
            y = scheduler.step(torch.tanh(y), t, y).prev_sample
        results.append(y)
    assert torch.equal(*results)


def test_wuerstchen_draws_noise_between_ratios_of_the_same_signal_as_diffusers_does() -> None:
    samples = []
    for scheduler in (
        diffusolve.DDPMWuerstchenScheduler(scaler=2.0),
        theirs("DDPMWuerstchenScheduler", {"scaler": 2.0}),
    ):
        scheduler.set_timesteps(20)  # 1 and 0.95 are both clamped
        x, generator = noise(1, 4, 8, 8), torch.Generator().manual_seed(1)
        for t in scheduler.timesteps[:-1]:
            x = scheduler.step(torch.tanh(x), t.expand(1), x, generator=generator).prev_sample
        samples.append(x)
    assert difference(*samples) < PROMISED


def test_one_multistep_step_to_sigma_min_begins_at_sigma_max() -> None:
    config = {"final_sigmas_type": "sigma_min", "sigma_schedule": "karras"}
    for name in ("EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler"):
        mine, reference = getattr(diffusolve, name)(**config), theirs(name, config)
        samples = []
        for scheduler in (mine, reference):
            scheduler.set_timesteps(1)
            x = noise(1, 4, 8, 8) * float(scheduler.init_noise_sigma)
            seen, generator = scheduler.scale_model_input(x, scheduler.timesteps[0]), torch.Generator().manual_seed(1)
            samples.append(scheduler.step(torch.tanh(seen), scheduler.timesteps[0], x, generator=generator).prev_sample)
        torch.testing.assert_close(mine.sigmas, reference.sigmas)
        assert difference(*samples) < PROMISED


def test_ipndm_takes_timesteps_and_sigmas_of_the_same_run() -> None:
    asked = diffusolve.IPNDMScheduler()
    asked.set_timesteps(6)
    for given in ({"timesteps": asked.timesteps.tolist()}, {"sigmas": asked.sigmas}, {"sigmas": asked.sigmas[:-1]}):
        scheduler = diffusolve.IPNDMScheduler()
        scheduler.set_timesteps(**given)
        assert len(scheduler.timesteps) == 6
        torch.testing.assert_close(scheduler.timesteps, asked.timesteps, atol=2e-4, rtol=0)  # of single precision
        torch.testing.assert_close(scheduler.sigmas, asked.sigmas, atol=1e-6, rtol=0)
    for wrong in ({"timesteps": [1.2, 0.5]}, {"timesteps": [0.5, 0.7]}, {"sigmas": [1.5, 0.5]}):
        with pytest.raises(
            ValueError, match=f"{next(iter(wrong))} are .*expected numbers from 1 down to 0, decreasing"
        ):
            diffusolve.IPNDMScheduler().set_timesteps(**wrong)


def test_the_last_step_of_unclip_needs_no_learned_variance() -> None:
    x, output = noise(1, 2, 4, 4), noise(1, 2, 4, 4, seed=1)
    scheduler = diffusolve.UnCLIPScheduler(variance_type="learned_range")
    without, whole = (scheduler.step(given, 0, x).prev_sample for given in (output, torch.cat([output, x], 1)))
    assert torch.equal(without, whole)
    with pytest.raises(ValueError, match="2 channels: expected 4"):
        scheduler.step(output, 1, x)


def test_a_run_of_the_inverse_over_all_timesteps_tells_each_once() -> None:
    mine, reference = (lib.DPMSolverMultistepInverseScheduler() for lib in (diffusolve, diffusers))
    for scheduler in (mine, reference):
        scheduler.set_timesteps(1000)
    assert mine.timesteps.tolist() == reference.timesteps.tolist()
    assert mine.num_inference_steps == reference.num_inference_steps == 999
    network, x = StandInNetwork(), noise(1, 4, 8, 8)
    for t in mine.timesteps:
        x = mine.step(network(x, t), t, x).prev_sample
    assert x.isfinite().all()


def test_ddim_inverse_says_that_thresholding_changes_nothing() -> None:
    with pytest.warns(UserWarning, match="thresholding has no effect"):
        scheduler = diffusolve.DDIMInverseScheduler(thresholding=True, sample_max_value=0.5)
    assert "thresholding" not in scheduler.config


def test_a_class_joined_with_that_of_diffusers_keeps_what_both_have_of_their_bases() -> None:
    ours, theirs = diffusolve.DDIMInverseScheduler, diffusers.DDIMInverseScheduler
    assert issubclass(ours, theirs)
    assert ours._deprecated_kwargs == diffusers.ConfigMixin._deprecated_kwargs != theirs._deprecated_kwargs


def test_what_is_wrong_is_said() -> None:
    x = noise(1, 2, 4, 4)
    unclip = diffusolve.UnCLIPScheduler()
    with pytest.raises(ValueError, match="variance_type"):
        diffusolve.UnCLIPScheduler(variance_type="fixed_large")
    with pytest.raises(ValueError, match="prev_timestep is 700: expected one below the timestep of the step, 600"):
        unclip.step(x, 600, x, prev_timestep=700)
    with pytest.raises(ValueError, match="4 channels: expected 2"):
        unclip.step(torch.cat([x, x], 1), 600, x)
    repaint = diffusolve.RePaintScheduler()
    with pytest.raises(ValueError, match="jump_n_sample is 0"):
        repaint.set_timesteps(10, jump_n_sample=0)
    repaint.set_timesteps(10)
    with pytest.raises(ValueError, match="has no plan"):
        _ = repaint.plan
    with pytest.raises(ValueError, match="timestep is 950: expected at most 900"):
        repaint.undo_step(x, 950)
    wuerstchen = diffusolve.DDPMWuerstchenScheduler()
    with pytest.raises(ValueError, match="expected two or more from 1 to 0"):
        wuerstchen.set_timesteps(timesteps=[0.5, 0.7])
    with pytest.raises(ValueError, match="num_inference_steps is None"):
        wuerstchen.set_timesteps()
    inverse = diffusolve.DDIMInverseScheduler(timestep_spacing="linspace")
    with pytest.raises(ValueError, match="timestep_spacing"):
        inverse.set_timesteps(10)
    random = diffusolve.DPMSolverMultistepInverseScheduler(algorithm_type="sde-dpmsolver++")
    random.set_timesteps(5)
    with pytest.raises(ValueError, match=r'has no inverse.*set algorithm_type="dpmsolver\+\+"'):
        random.step(x, random.timesteps[0], x)
    with pytest.raises(ValueError, match="num_inference_steps is 2000"):
        random.set_timesteps(2000)
    with pytest.raises(ValueError, match=r"trained_betas.2. is 1.1: expected a number from 0 to 1"):
        diffusolve.IPNDMScheduler(trained_betas=[0.1, 0.5, 1.1])
