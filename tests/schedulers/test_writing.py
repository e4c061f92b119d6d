"""What is written to a scheduler takes effect, or is an error that says what to do."""

from __future__ import annotations

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.config import FrozenConfigError
from diffusolve.schedulers import scheduler_class
from tests.schedulers.parity import STABLE_DIFFUSION, ours, standard_noise, theirs


def walked(scheduler: object, timesteps: Tensor) -> Tensor:
    x = standard_noise()
    for t in timesteps:
        x = scheduler.step(0.1 * x, t, x).prev_sample  # type: ignore[attr-defined]
    return x


def test_a_history_that_was_added_up_cannot_follow_and_the_error_says_how_it_could() -> None:
    scheduler = ours("UniPCMultistepScheduler", STABLE_DIFFUSION)
    reference = theirs("UniPCMultistepScheduler", STABLE_DIFFUSION)
    results = []
    for each in (scheduler, reference):
        each.set_timesteps(8)
        x = walked(each, each.timesteps[:3])
        each.sigmas[5] = 0.9 * each.sigmas[5]
        if each is scheduler:
            with pytest.raises(ValueError, match=r"in the middle of a run.*keep_history\(\) before that"):
                each.step(x, each.timesteps[3], x)
            each.keep_history()
            each.set_timesteps(8)
            x = walked(each, each.timesteps[:3])
            each.sigmas[5] = 0.9 * each.sigmas[5]
        for t in each.timesteps[3:]:
            x = each.step(0.1 * x, t, x).prev_sample
        results.append(x)
    torch.testing.assert_close(*results)


def test_lengths_and_kinds_that_cannot_be_are_refused() -> None:
    scheduler = ours("EulerDiscreteScheduler", STABLE_DIFFUSION)
    scheduler.set_timesteps(6)
    with pytest.raises(TypeError, match="sigmas are a list: expected a tensor"):
        scheduler.sigmas = [3.0, 0.0]
    with pytest.raises(ValueError, match=r"timesteps have shape \(\): expected \(number,\)"):
        scheduler.timesteps = torch.tensor(3)
    scheduler.sigmas = scheduler.sigmas[:4]
    x = standard_noise()
    with pytest.raises(ValueError, match="there are 6 timesteps and 4 sigmas: expected one sigma more"):
        scheduler.step(x, scheduler.timesteps[0], x)
    heun = ours("HeunDiscreteScheduler", STABLE_DIFFUSION)
    heun.set_timesteps(4)
    heun.sigmas[3] = 0.9 * heun.sigmas[3]
    with pytest.raises(ValueError, match="equal ones where a step ends and the next begins"):
        heun.step(x, heun.timesteps[0], x)
    with pytest.raises(ValueError, match="written before set_timesteps, which makes others"):
        ours("DDIMScheduler", {}).timesteps = torch.tensor([3, 1])
    with pytest.raises(AttributeError, match="init_noise_sigma follows from the configuration and the run"):
        scheduler.init_noise_sigma = 2.0
    pndm = ours("PNDMScheduler", {})
    pndm.set_timesteps(5)
    with pytest.raises(ValueError, match=r"Call set_timesteps\(7\) instead"):
        pndm.num_inference_steps = 7


def test_other_generations_of_a_scheduler_are_not_written_to() -> None:
    scheduler = ours("EulerDiscreteScheduler", STABLE_DIFFUSION)
    expected = {}
    for factor in (1.0, 0.5):
        scheduler.set_timesteps(6)
        scheduler.sigmas[3:] *= factor
        expected[factor] = walked(scheduler, scheduler.timesteps)

    def run(factor: float) -> Tensor:
        scheduler.set_timesteps(6)
        scheduler.sigmas[3:] *= factor
        return walked(scheduler, scheduler.timesteps)

    with ThreadPoolExecutor(4) as pool:
        for factor, result in zip([1.0, 0.5] * 8, pool.map(run, [1.0, 0.5] * 8), strict=True):
            assert torch.equal(result, expected[factor])


def test_copies_and_pickles_go_on_with_what_was_written() -> None:
    scheduler = ours("DPMSolverMultistepScheduler", STABLE_DIFFUSION)
    scheduler.set_timesteps(6)
    scheduler.sigmas[3:] *= 0.5
    x = walked(scheduler, scheduler.timesteps[:2])
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), copy.copy(scheduler)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin.config.solver_order = 1
        assert scheduler.config.solver_order == 2
        assert torch.equal(twin.sigmas, scheduler.sigmas)
        first_order = twin.step(x, twin.timesteps[2], x).prev_sample
    second_order = scheduler.step(x, scheduler.timesteps[2], x).prev_sample
    assert not torch.allclose(first_order, second_order)


def test_a_written_configuration_warns_and_is_read_and_saved_as_written() -> None:
    scheduler = diffusolve.EulerDiscreteScheduler()
    with pytest.warns(FutureWarning, match=r"deprecated: register_to_config\(prediction_type=value\)"):
        scheduler.config.prediction_type = "v_prediction"
    with pytest.warns(FutureWarning, match="timestep_spacing"):
        scheduler.config["timestep_spacing"] = "trailing"
    other = diffusolve.EulerDiscreteScheduler.from_config(scheduler.config)
    assert (other.config.prediction_type, other.config["timestep_spacing"]) == ("v_prediction", "trailing")
    with pytest.raises(FrozenConfigError):
        scheduler.config.pop("prediction_type")
    for write in (
        lambda: setattr(scheduler.config, "prediction_type", "no such thing"),
        lambda: scheduler.register_to_config(prediction_type="no such thing"),
    ):
        with pytest.raises(diffusolve.errors.UnknownNameError, match="unknown prediction_type"):
            write()
    assert scheduler.config.prediction_type == "v_prediction"


def test_a_table_read_before_is_watched_and_one_that_nobody_has_read_costs_nothing() -> None:
    scheduler, twin = ours("LCMScheduler", {}), ours("LCMScheduler", {})
    table = scheduler.alphas_cumprod
    for each in (scheduler, twin):
        each.set_timesteps(3)
    table.mul_(0.9)
    twin.alphas_cumprod = 0.9 * twin.alphas_cumprod
    x = standard_noise()
    results = [each.step(x, each.timesteps[0], x, torch.Generator().manual_seed(0)) for each in (scheduler, twin)]
    assert torch.equal(results[0].prev_sample, results[1].prev_sample)


def test_a_history_is_held_from_the_first_time_that_it_is_asked_for() -> None:
    scheduler = ours("UniPCMultistepScheduler", STABLE_DIFFUSION)
    scheduler.set_timesteps(6)
    x = walked(scheduler, scheduler.timesteps[:3])
    with pytest.raises(ValueError, match=r"does not hold its whole history.*call set_timesteps to begin another"):
        _ = scheduler.model_outputs
    expected = walked(scheduler, scheduler.timesteps[3:])
    scheduler.set_timesteps(6)
    assert torch.allclose(walked(scheduler, scheduler.timesteps[:3]), x)
    assert [kept.shape for kept in scheduler.model_outputs] == [x.shape, x.shape]
    assert torch.allclose(walked(scheduler, scheduler.timesteps[3:]), expected, atol=1e-4)


def test_half_a_history_cannot_be_forgotten_and_none_can_be_made_up() -> None:
    for name, forgets in (("UniPCMultistepScheduler", "last_sample"), ("DPMSolverMultistepScheduler", "model_outputs")):
        scheduler = ours(name, STABLE_DIFFUSION)
        scheduler.set_timesteps(6)
        x = walked(scheduler, scheduler.timesteps[:2])
        setattr(scheduler, forgets, None if forgets == "last_sample" else [None, None])
        with pytest.raises(ValueError, match=f"{forgets} of a run of {name} were cleared: expected .*lower_order_nums"):
            scheduler.step(x, scheduler.timesteps[2], x)
        scheduler.lower_order_nums = 0
        scheduler.step(x, scheduler.timesteps[2], x)
        with pytest.raises(ValueError, match="lower_order_nums is set to -1: expected a number of outputs"):
            scheduler.lower_order_nums = -1
        scheduler.model_outputs, scheduler.lower_order_nums = [None, x], 2
        with pytest.raises(ValueError, match=f"history of a run of {name} was written .* part is missing"):
            scheduler.step(x, scheduler.timesteps[3], x)
    unipc = ours("UniPCMultistepScheduler", STABLE_DIFFUSION)
    unipc.keep_history()
    unipc.set_timesteps(6)
    with pytest.raises(AttributeError, match="has no this_order before its first step"):
        _ = unipc.this_order
    x = walked(unipc, unipc.timesteps[:4])
    unipc.model_outputs, unipc.last_sample, unipc.this_order = [x, x], x, 1
    unipc._step_index = 5
    with pytest.raises(ValueError, match=r"this_order is 1, but a run with 2 outputs comes .* order 2"):
        unipc.step(x, unipc.timesteps[5], x)


def test_a_history_that_would_reach_before_the_first_step_is_refused() -> None:
    for name, options in (
        ("DEISMultistepScheduler", {}),
        ("UniPCMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
    ):
        scheduler = ours(name, {**STABLE_DIFFUSION, **options})
        scheduler.set_timesteps(6)
        x = walked(scheduler, scheduler.timesteps[:2])
        scheduler._step_index = None
        with pytest.raises(ValueError, match=rf"2 outputs are remembered where a run of {name} begins at evaluation 0"):
            scheduler.step(x, scheduler.timesteps[0], x)
    sa_solver = ours("SASolverScheduler", STABLE_DIFFUSION)
    sa_solver.keep_history()
    sa_solver.set_timesteps(8)
    x = walked(sa_solver, sa_solver.timesteps[:4])
    sa_solver._step_index = 2
    with pytest.raises(ValueError, match="from timestep 624, at which tau_func is another than"):
        sa_solver.step(x, sa_solver.timesteps[2], x)
    sa_solver.set_timesteps(8)
    with (
        pytest.warns(UserWarning, match="333 is not one of"),
        pytest.raises(ValueError, match="that tau_func has at it"),
    ):
        sa_solver.step(x, 333, x)
    singlestep = ours("DPMSolverSinglestepScheduler", STABLE_DIFFUSION)
    singlestep.set_timesteps(6)
    x = walked(singlestep, singlestep.timesteps[:3])
    singlestep._step_index = None
    with pytest.raises(ValueError, match=r"comes to evaluation 3 next, in the middle of steps that go together"):
        singlestep.step(x, singlestep.timesteps[3], x)
    singlestep.model_outputs = [None, None]
    singlestep.step(x, singlestep.timesteps[3], x)


def test_a_foreign_history_of_sa_solver_has_no_timesteps_to_ask_tau_func_for() -> None:
    x = standard_noise()
    with_noise = ours("SASolverScheduler", STABLE_DIFFUSION)
    with_noise.set_timesteps(8)
    with_noise.model_outputs, with_noise.lower_order_nums, with_noise.last_sample = [x, x], 2, x
    with_noise._step_index = 3
    with pytest.raises(ValueError, match="SASolverScheduler remembers the noise of its last step too"):
        with_noise.step(x, with_noise.timesteps[3], x)
    sa_solver = ours("SASolverScheduler", {**STABLE_DIFFUSION, "tau_func": lambda _: 0.0})
    sa_solver.set_timesteps(8)
    sa_solver.model_outputs, sa_solver.lower_order_nums, sa_solver.last_sample = [x, x], 2, x
    sa_solver._step_index = 3
    with pytest.raises(ValueError, match="history of this SASolverScheduler has no timesteps, which tau_func asks for"):
        sa_solver.step(x, sa_solver.timesteps[3], x)


def test_a_history_that_is_read_farther_back_than_it_is_held_says_how_far_it_is() -> None:
    scheduler = ours("IPNDMScheduler", {"num_train_timesteps": 1000})
    scheduler.keep_history()
    scheduler.set_timesteps(20)
    walked(scheduler, scheduler.timesteps[:14])
    assert torch.isfinite(scheduler.ets[-1]).all()
    with pytest.raises(ValueError, match="holds of its history what its later steps read: expected one of the last"):
        scheduler.ets[0]


def test_pndm_by_hand_says_what_its_memory_lacks_and_is_left_where_it_was() -> None:
    pndm = ours("PNDMScheduler", {**STABLE_DIFFUSION, "skip_prk_steps": True})
    pndm.set_timesteps(6)
    x = walked(pndm, pndm.timesteps[:1])
    pndm.ets = []
    with pytest.raises(ValueError, match="ets holds 0 outputs and cur_sample is there at call number 1"):
        pndm.step(x, pndm.timesteps[1], x)
    with pytest.raises(ValueError, match=r"output has shape \(1,\), but the sample has shape"):
        pndm.step(x[:1, 0, 0, 0], pndm.timesteps[1], x)
    assert pndm.counter == 1
    with pytest.raises(IndexError, match="to be one of a Runge-Kutta step, of which it has 0"):
        pndm.step_prk(x, pndm.timesteps[1], x)
    pndm.counter = 0
    pndm.step(x, pndm.timesteps[1], x)
    assert pndm.counter == 1 == len(pndm.ets)


def test_what_would_have_no_effect_raises_and_says_what_to_do() -> None:
    pndm, kdpm2 = ours("PNDMScheduler", {}), ours("KDPM2DiscreteScheduler", {})
    for scheduler in (pndm, kdpm2):
        scheduler.set_timesteps(6)
    for scheduler, name, message in (
        (pndm, "pndm_order", "cannot be written to: call set_timesteps to begin a run anew"),
        (kdpm2, "sigmas_interpol", "cannot be written to: it follows from the sigmas: write these"),
        (kdpm2, "_sigma_to_t", "override it in a subclass"),
        (ours("DDIMScheduler", {}), "_get_variance", "override it in a subclass"),
        (ours("DPMSolverMultistepScheduler", {}), "dpm_solver_first_order_update", "override step in a subclass"),
    ):
        with pytest.raises(AttributeError, match=message):
            setattr(scheduler, name, lambda *_: None)
    pndm.step = lambda *_: "mine"  # callers call it
    assert pndm.step() == "mine"
    pndm.my_own_note = 3
    assert pndm.my_own_note == 3


def test_numbers_that_no_step_can_be_made_of_are_named() -> None:
    ddim, ddpm, lcm = (ours(name, STABLE_DIFFUSION) for name in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler"))
    for scheduler in (ddim, ddpm, lcm):
        scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"is written: 12\. Call set_timesteps\(12\) instead"):
        lcm.num_inference_steps = 12  # in diffusers the last step draws noise then
    ddim.alphas_cumprod = ddim.alphas_cumprod[:500]
    with pytest.raises(ValueError, match=r"timestep is 750, but the noise schedule has 500.*call set_timesteps"):
        ddim.step(standard_noise(), ddim.timesteps[0], standard_noise())
    ddpm.final_alpha_cumprod = torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"from sigma / alpha = 0\.029.* up to 1: expected less noise"):
        ddpm.step(standard_noise(), ddpm.timesteps[-1], standard_noise())


def test_what_is_written_without_effect_is_an_error_or_a_warning() -> None:
    x = standard_noise()
    for name, attribute, value in (
        ("DDPMScheduler", "variance_type", "fixed_large"),
        ("UnCLIPScheduler", "betas", torch.full((1000,), 0.01)),
        ("SASolverScheduler", "predict_x0", False),
        ("DPMSolverSDEScheduler", "noise_sampler_seed", 3),
    ):
        scheduler = scheduler_class(name)()
        with pytest.raises(AttributeError, match=rf"{name}\.{attribute} is written, on which no step here depends"):
            setattr(scheduler, attribute, value)
    unclip = scheduler_class("UnCLIPScheduler")()
    unclip.betas = unclip.betas.clone()  # the same numbers
    ddim = ours("DDIMScheduler", STABLE_DIFFUSION)
    ddim.set_timesteps(4)
    ddim.register_to_config(beta_end=0.03)
    with pytest.warns(UserWarning, match="describes other betas now, but its tables were made when it was"):
        ddim.step(x, ddim.timesteps[0], x)
    for name in ("LCMScheduler", "DPMSolverSinglestepScheduler"):
        scheduler = ours(name, STABLE_DIFFUSION)
        scheduler.set_timesteps(8)
        scheduler.timesteps = scheduler.timesteps[2:]
        with pytest.raises(ValueError, match=r"6 timesteps are written in place of 8.*give them to set_timesteps"):
            scheduler.step(x, scheduler.timesteps[0], x)
    solver = ours("DPMSolverMultistepScheduler", STABLE_DIFFUSION)
    solver.set_timesteps(4)
    solver.register_to_config(use_flow_sigmas=True)
    with pytest.raises(ValueError, match=r"sigmas reach 14.*call set_timesteps after writing"):
        solver.step(x, solver.timesteps[0], x)
    singlestep = ours("DPMSolverSinglestepScheduler", STABLE_DIFFUSION)
    singlestep.set_timesteps(4)
    singlestep.register_to_config(solver_order=1)
    with pytest.raises(ValueError, match="solver_order is 1, written in a run that began with 2"):
        singlestep.step(x, singlestep.timesteps[0], x)


def test_noise_of_flow_sigmas_before_a_run_follows_the_timestep() -> None:
    for name in ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"):
        scheduler = scheduler_class(name)(use_flow_sigmas=True)
        data, noise = standard_noise(), standard_noise(1)
        noised = scheduler.add_noise(data, noise, torch.full((len(data),), 250))
        torch.testing.assert_close(noised, 0.75 * data + 0.25 * noise)
