"""Every class that can sample a flow-matching model does so when it is given the configuration of one."""

from __future__ import annotations

import ast
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.schedulers import CLASSES, scheduler_class

from .parity import difference, diffusers

FLOW = "FlowMatchEulerDiscreteScheduler"
STABLE_DIFFUSION_3 = {"shift": 3.0}
FLUX = {"use_dynamic_shifting": True, "shift": 3.0}
LTX_VIDEO = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}
QWEN_IMAGE = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "shift_terminal": 0.02}
MOCHI = {"invert_sigmas": True}

EACH = sorted(
    name
    for name in CLASSES
    if getattr(scheduler_class(name), "samples_flow", False) and not name.startswith(("FlowMatch", "LTX"))
)
DETERMINISTIC = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
]


def carried(name: str, config: dict[str, Any], **more: Any) -> Any:
    """The class called `name` with the configuration of a FlowMatchEuler."""
    source = diffusers.FlowMatchEulerDiscreteScheduler(**config).config
    return scheduler_class(name).from_config(source, **more)


def data_velocity(x: Tensor, sigma: float) -> Tensor:
    """The exact velocity of data that are normal with mean 0.5 and standard deviation 1, which is smooth."""
    mean, deviation = 0.5, 1.0
    alpha = 1.0 - sigma
    variance = (alpha * deviation) ** 2 + sigma**2
    data = mean + alpha * deviation**2 / variance * (x - alpha * mean)
    return (x - data) / max(sigma, 1e-9) if sigma > 1e-4 else -data


def exact(noise: Tensor) -> Tensor:
    """Where the probability-flow ODE leads from `noise` at sigma = 1."""
    return 0.5 + noise


def sampled(
    scheduler: Any, *, evaluations: int, given: Callable[[int], dict[str, Any]], inverted: bool = False
) -> Tensor:
    """The end of a run with that many evaluations of the network."""
    steps = (evaluations + 1) // 2 if scheduler.order == 2 else evaluations
    scheduler.set_timesteps(**given(steps))
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    for timestep in scheduler.timesteps:
        told = float(timestep) / 1000
        output = -data_velocity(x, 1.0 - told) if inverted else data_velocity(x, told)
        more = {"generator": generator} if takes else {}
        x = scheduler.step(output, timestep, scheduler.scale_model_input(x, timestep), **more).prev_sample
    return x


def equally(steps: int) -> dict[str, Any]:
    return {"sigmas": np.linspace(1.0, 1.0 / steps, steps).tolist(), "mu": 0.8}


def alone(steps: int) -> dict[str, Any]:
    return {"num_inference_steps": steps}


def start() -> Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_is_nearer_to_the_exact_end_than_euler_in_as_many_evaluations() -> None:
    """On the exact velocity of normal data, which is smooth, with the sigmas that each model's pipeline asks for.

    But for two evaluations a step on sigmas that end far above 0, as Flux's do: their last step, to sigma = 0, is
    Euler's, and half as many steps leave it twice as long.
    """
    wrong = []
    for config, given in (
        (STABLE_DIFFUSION_3, alone),
        (FLUX, equally),
        (LTX_VIDEO, equally),
        (MOCHI, alone),
        (QWEN_IMAGE, equally),
    ):
        inverted = config == MOCHI
        for evaluations in (15, 21):
            euler = carried("EulerDiscreteScheduler", config)
            least = float(
                (sampled(euler, evaluations=evaluations, given=given, inverted=inverted) - exact(start())).abs().max()
            )
            for name in DETERMINISTIC:
                if name == "EulerDiscreteScheduler" or (name in TWO and config == FLUX):
                    continue
                end = sampled(carried(name, config), evaluations=evaluations, given=given, inverted=inverted)
                error = float((end - exact(start())).abs().max())
                if not error < least:
                    wrong.append(f"{name} {config} {evaluations}: {error:.4f}, Euler {least:.4f}")
    assert not wrong, "\n".join(wrong)


def test_euler_is_flow_match_euler() -> None:
    for config in (STABLE_DIFFUSION_3, FLUX, LTX_VIDEO, MOCHI, {"use_karras_sigmas": True}):
        runs: list[dict[str, Any]] = [
            {"num_inference_steps": 6},
            equally(6),
            {"timesteps": [900.0, 500.0, 100.0]},
            {"timesteps": [900.0, 500.0, 100.0], "sigmas": [0.95, 0.7, 0.2]},
        ]
        for run in runs:
            mine, reference = carried("EulerDiscreteScheduler", config), getattr(diffusolve, FLOW)(**config)
            given = {**run, "mu": 0.8}
            a = sampled(mine, evaluations=1, given=lambda _, given=given: given)
            b = sampled(reference, evaluations=1, given=lambda _, given=given: given)
            assert torch.equal(mine.timesteps, reference.timesteps)
            assert torch.equal(mine.sigmas, reference.sigmas)
            assert torch.equal(a, b)


def test_stochastic_forms_end_at_the_distribution_of_the_data() -> None:
    stochastic = {
        "EulerAncestralDiscreteScheduler": {},
        "KDPM2AncestralDiscreteScheduler": {},
        "DPMSolverSinglestepAncestralScheduler": {},
        "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
        "DPMSolverSinglestepScheduler": {"algorithm_type": "sde-dpmsolver++"},
        "DPMSolverSDEScheduler": {"noise_sampler_seed": 0},
    }
    wrong = []
    for name, more in stochastic.items():
        if name == "DPMSolverSDEScheduler":
            pytest.importorskip("torchsde")
        for config in (STABLE_DIFFUSION_3, MOCHI):
            scheduler = carried(name, config, **more)
            end = sampled(scheduler, evaluations=80, given=equally, inverted=config == MOCHI)
            mean, deviation = float(end.mean()), float(end.std())
            if abs(mean - 0.5) > 0.1 or abs(deviation - 1.0) > 0.1:  # 1,024 numbers: 1 / 32 = 0.03
                wrong.append(f"{name} {config}: {mean:.3f} +- {deviation:.3f}")
    assert not wrong, "\n".join(wrong)


def test_the_fast_solver_chooses_sigmas_between_those_ends() -> None:
    for config in (STABLE_DIFFUSION_3, MOCHI):
        scheduler = carried("DPMSolverFastScheduler", config, final_sigmas_type="zero")
        end = sampled(scheduler, evaluations=24, given=alone, inverted=config == MOCHI)
        assert float((end - exact(start())).abs().max()) < 0.05


def test_noise_is_scaled_as_flow_match_euler_scales_it() -> None:
    x, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for name in EACH:
        mine, reference = carried(name, STABLE_DIFFUSION_3), getattr(diffusolve, FLOW)(**STABLE_DIFFUSION_3)
        for scheduler in (mine, reference):
            at = scheduler.timesteps[torch.tensor([3, 3])] if name not in TWO else torch.tensor([500.0, 500.0])
            sigma = at[:1].reshape(1, 1, 1, 1) / 1000
            if scheduler is mine:
                assert difference(scheduler.scale_noise(x, at, noise), (1 - sigma) * x + sigma * noise) < 1e-6, name
        mine.set_timesteps(**equally(5))
        at = mine.timesteps[[2, 0]]
        sigma = (at / 1000).reshape(2, 1, 1, 1)
        assert difference(mine.scale_noise(x, at, noise), (1 - sigma) * x + sigma * noise) < 1e-6, name
        assert float(mine.init_noise_sigma) == 1.0


TWO = {"DPMSolverFastScheduler", *(name for name in EACH if scheduler_class(name).order == 2)}


def test_the_way_back_is_the_same_configuration() -> None:
    for config in (STABLE_DIFFUSION_3, FLUX, LTX_VIDEO, {**MOCHI, "use_beta_sigmas": True}):
        for name in EACH:
            back = diffusolve.FlowMatchEulerDiscreteScheduler.from_config(carried(name, config).config)
            assert {key: back.config[key] for key in config} == config, name
            assert "use_flow_sigmas" not in back.config or not back.config["use_flow_sigmas"], name


def test_a_flow_configuration_of_the_dpm_solver_family_is_carried_too() -> None:
    wan = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
    ).config
    for name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler", FLOW):
        scheduler = scheduler_class(name).from_config(wan)
        scheduler.set_timesteps(sigmas=[1.0, 0.5])
        assert float(scheduler.sigmas[-2]) == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))


def test_what_diffusers_says_itself_stays_as_it_is_there() -> None:
    given = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    mine, reference = (
        library.DPMSolverMultistepScheduler.from_config(
            diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config, **given
        )
        for library in (diffusolve, diffusers)
    )
    for scheduler in (mine, reference):
        scheduler.set_timesteps(7)
    assert torch.equal(mine.timesteps, reference.timesteps)
    assert difference(mine.sigmas, reference.sigmas) < 1e-6


def test_a_saved_file_samples_the_same(tmp_path: Path) -> None:
    for name in EACH:
        if name == "DPMSolverSDEScheduler":
            continue  # draws a seed
        scheduler = carried(name, LTX_VIDEO)
        scheduler.save_pretrained(tmp_path / name)
        loaded = scheduler_class(name).from_pretrained(tmp_path / name)
        a, b = (sampled(s, evaluations=7, given=equally) for s in (scheduler, loaded))
        assert torch.equal(a, b), name


def calls_of_pipelines() -> Iterator[frozenset[str]]:
    """The keywords of every call of `retrieve_timesteps` in diffusers' pipelines."""
    folder = Path(diffusers.__file__).parent / "pipelines"
    for path in folder.rglob("pipeline_*.py"):
        text = path.read_text(encoding="utf-8")
        if "retrieve_timesteps(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "retrieve_timesteps":
                names = [key.arg for key in node.keywords]
                positional = ["scheduler", "num_inference_steps", "device", "timesteps", "sigmas"][: len(node.args)]
                yield frozenset(name for name in (*positional, *names) if name in ("timesteps", "sigmas", "mu"))


def test_every_call_that_pipelines_make_is_accepted() -> None:
    values: dict[str, Any] = {"timesteps": [900.0, 500.0, 100.0], "sigmas": [1.0, 0.6, 0.2], "mu": 0.8}
    calls = set(calls_of_pipelines())
    assert {"sigmas", "mu"} <= set().union(*calls)
    for name in (*EACH, FLOW, "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"):
        parameters = inspect.signature(scheduler_class(name).set_timesteps).parameters
        assert {"num_inference_steps", "device", *values} <= parameters.keys(), name
        for call in calls:
            for left_out in ("", "sigmas", "timesteps"):
                given = {key: values[key] for key in call if key not in (left_out, "mu")}
                if len(given) == 2:
                    continue  # retrieve_timesteps takes one of them
                scheduler = carried(name, FLUX if "mu" in call else STABLE_DIFFUSION_3)
                mu = {"mu": 0.8} if "mu" in call else {}
                scheduler.set_timesteps(**(given or {"num_inference_steps": 3}), device="cpu", **mu)
                assert len(scheduler.timesteps) in (3, 4, 5), (name, call)


def test_bad_input_is_named() -> None:
    for name in EACH:
        dynamic = carried(name, FLUX)
        with pytest.raises(ValueError, match="mu is missing"):
            dynamic.set_timesteps(5)
        static = carried(name, STABLE_DIFFUSION_3)
        with pytest.raises(ValueError, match="sigmas are"):
            static.set_timesteps(sigmas=[1.5, 0.5])
        with pytest.raises(ValueError, match="2 timesteps are given and sigmas for 3 steps"):
            static.set_timesteps(timesteps=[900.0, 100.0], sigmas=[0.9, 0.5, 0.1])
    for name in ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler", "LCMScheduler"):
        with pytest.raises(ValueError, match=r"cannot sample a flow-matching model.*EulerDiscreteScheduler"):
            getattr(diffusolve, name).from_config(diffusers.FlowMatchEulerDiscreteScheduler().config)
    scheduler = carried("EulerDiscreteScheduler", {})
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match="s_churn is 2"):
        scheduler.step(torch.ones(1), scheduler.timesteps[0], torch.ones(1), s_churn=2.0)
    with pytest.raises(ValueError, match="has betas: use add_noise"):
        diffusolve.EulerDiscreteScheduler().scale_noise(torch.ones(1), torch.tensor([5]), torch.ones(1))


def test_threads_share_one_scheduler_to_the_bit() -> None:
    for name in (FLOW, "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"):
        scheduler = carried(name, FLUX)

        def run(steps: int, scheduler: Any = scheduler) -> Tensor:
            scheduler.set_timesteps(**equally(steps))
            x = torch.full((1, 4, 4), float(steps))
            for timestep in scheduler.timesteps:
                x = scheduler.step(torch.sin(x + timestep / 1000), timestep, x).prev_sample
            return x

        alone = [run(2 + number % 9) for number in range(32)]
        together: list[Tensor | None] = [None] * 32
        barrier = threading.Barrier(32)

        def work(number: int, together: list[Tensor | None] = together, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            together[number] = run(2 + number % 9)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(b is not None and torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", [*sorted(TWO - {"DPMSolverFastScheduler"}), "FlowMatchHeunDiscreteScheduler"])
def test_image_to_image_counts_two_evaluations_a_step(name: str) -> None:
    """As pipelines begin it; the samples then have the distribution of the data, wherever it begins."""
    for start in (1, 15, 35):
        scheduler = carried(name, STABLE_DIFFUSION_3) if name in TWO else scheduler_class(name)(shift=3.0)
        scheduler.set_timesteps(40)
        timesteps = scheduler.timesteps[start * scheduler.order :]
        scheduler.set_begin_index(start * scheduler.order)
        draws = torch.Generator().manual_seed(start)
        data, noise = (torch.randn(1, 20_000, generator=draws, dtype=torch.float64) for _ in range(2))
        x = scheduler.scale_noise(0.5 + data, timesteps[:1], noise)
        more = {"generator": draws} if "generator" in inspect.signature(scheduler.step).parameters else {}
        torch.manual_seed(0)  # of the Brownian path
        for timestep in timesteps:
            x = scheduler.step(data_velocity(x, float(timestep) / 1000), timestep, x, **more).prev_sample
        assert abs(float(x.mean()) - 0.5) < 0.05, start
        assert abs(float(x.std()) - 1.0) < 0.05, start
