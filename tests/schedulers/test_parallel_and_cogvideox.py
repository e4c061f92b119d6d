"""Schedulers of parallel sampling and of CogVideoX where the matrix does not reach: rows of their own, bad input."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

import diffusolve
from tests.schedulers.parity import PROMISED, difference, ours, theirs

CONFIGS: list[dict[str, Any]] = [
    {},
    {"clip_sample": False},
    {"clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    {"thresholding": True, "prediction_type": "sample"},
]


def rows(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 4, 4, generator=generator), torch.randn(count, 3, 4, 4, generator=generator)


def test_rows_at_timesteps_of_their_own_step_as_in_diffusers() -> None:
    output, x = rows()
    different = []
    for name, config, steps in product(("DDIMParallelScheduler", "DDPMParallelScheduler"), CONFIGS, (5, 8)):
        mine, reference = ours(name, config), theirs(name, config)
        for scheduler in (mine, reference):
            scheduler.set_timesteps(steps)
        for own in (mine.timesteps[:5], mine.timesteps[[4, 0, 2, 2, 3]]):
            expected = reference.batch_step_no_noise(output, own.clone(), x)
            if not difference(mine.batch_step_no_noise(output, own, x), expected) < PROMISED:
                different.append((name, config, steps))
    assert not different


def test_rows_step_as_whole_batches_do_without_noise() -> None:
    output, x = rows(3)
    for scheduler in (diffusolve.DDIMParallelScheduler(), diffusolve.DDPMParallelScheduler()):
        scheduler.set_timesteps(4)
        t = int(scheduler.timesteps[-1])  # where no noise is added
        together = scheduler.batch_step_no_noise(output, torch.full((3,), t), x)
        torch.testing.assert_close(together, scheduler.step(output, t, x).prev_sample)


def test_variances_that_pipelines_of_parallel_sampling_read_are_those_of_diffusers() -> None:
    for name in ("DDIMParallelScheduler", "DDPMParallelScheduler"):
        mine, reference = ours(name, {}), theirs(name, {})
        assert mine._is_ode_scheduler == reference._is_ode_scheduler
        for scheduler in (mine, reference):
            scheduler.set_timesteps(5)
        found = [float(mine._get_variance(t)) for t in mine.timesteps]
        assert found == pytest.approx([float(reference._get_variance(t)) for t in reference.timesteps], rel=1e-3)


def test_what_is_wrong_with_a_batch_is_said() -> None:
    output, x = rows(2)
    ddim = diffusolve.DDIMParallelScheduler()
    ddim.set_timesteps(4)
    with pytest.raises(ValueError, match=r"eta is 0\.5: expected 0"):
        ddim.batch_step_no_noise(output, ddim.timesteps[:2], x, eta=0.5)
    with pytest.raises(ValueError, match="3 timesteps are given for 2 samples"):
        ddim.batch_step_no_noise(output, ddim.timesteps[:3], x)


def test_a_prediction_without_its_timestep_is_an_error_that_names_both() -> None:
    output, x = rows(2)
    scheduler = diffusolve.CogVideoXDPMScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="old_pred_original_sample is given without timestep_back"):
        scheduler.step(output, x, scheduler.timesteps[1], None, x)
    with pytest.raises(ValueError, match="timestep_back is given without old_pred_original_sample"):
        scheduler.step(output, None, scheduler.timesteps[1], scheduler.timesteps[0], x)


def test_cogvideox_with_the_caller_as_its_memory_is_dpm_plus_plus_2m_sde() -> None:
    config = {"snr_shift_scale": 1.0, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    scheduler = diffusolve.CogVideoXDPMScheduler(**config)
    scheduler.set_timesteps(5)  # a number that divides 1000: where steps lead is where timesteps are
    output, x = rows(2)
    names = ("beta_schedule", "beta_start", "beta_end", "prediction_type")
    same = {name: scheduler.config[name] for name in names}
    reference = diffusolve.DPMSolverMultistepScheduler(**same, algorithm_type="sde-dpmsolver++")
    reference.set_timesteps(timesteps=scheduler.timesteps.tolist())
    mine = expected = x
    old = back = None
    for t in scheduler.timesteps:
        noise = torch.Generator().manual_seed(int(t))
        if old is not None and int(t) > 200:
            torch.randn(x.shape, generator=noise)  # the draw that is not used
        before = noise.get_state()
        mine, old = scheduler.step(output, old, t, back, mine, generator=torch.Generator().manual_seed(int(t)))
        again = torch.Generator()
        again.set_state(before)
        expected = reference.step(output, t, expected, generator=again).prev_sample
        back = t
        assert difference(mine, expected) < PROMISED, t
