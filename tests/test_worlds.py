"""Names in the worlds of other programs, against sigmas and samples measured there."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from benchmarks import against_euler
from diffusolve import sampler, scheduler
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, WORLDS, entry_in_world
from diffusolve.errors import UnknownNameError
from diffusolve.noise import NOISE_SCHEDULES, SD15, NoiseSchedule, VarianceExploding
from diffusolve.plan import Plan, trace
from diffusolve.prediction import Sample
from diffusolve.sampling import Sampler, sample
from diffusolve.solvers import deis, res_singlestep, seeds_2
from diffusolve.spacing import Beta, Karras
from tests.test_cli import run

DATA = Path(__file__).parent / "data"
COMFYUI = json.loads((DATA / "comfyui_names.json").read_text(encoding="utf-8"))
LATER = json.loads((DATA / "comfyui_names_0_31.json").read_text(encoding="utf-8"))
A1111 = json.loads((DATA / "a1111_levels.json").read_text(encoding="utf-8"))
A1111_SAMPLES = json.loads((DATA / "a1111_samples.json").read_text(encoding="utf-8"))["samples"]
MEAN, VARIANCE, BIAS = (np.array(COMFYUI["denoiser"][key]) for key in ("mean", "v", "bias"))
GUIDANCE = 0.7

BONG_TANGENT = {
    5: [1.0, 0.93203557, 0.80430627, 0.5, 0.13226144, 0.0],
    12: [1.0, 0.98229033, 0.95908344, 0.92746729, 0.88218671, 0.81303388, 0.69898552, 0.5, 0.28966978, 0.15482883,
         0.07754489, 0.03068402, 0.0],
}  # fmt: skip
"""Sigmas of RES4LYF's "bong_tangent" for flow matching, as measured there in July 2026."""

SAME_LEVELS = 2e-5
"""Relative; the programs' tables are in single precision, and EDM's arctangent of 80 loses a digit of it."""

SAME_SAMPLES = 2e-5
"""Of samples of size 1, from sigmas that the programs have in single precision."""

APART = {
    "deis": (1e-4, "there its integrals are sums over 10,000 points"),
    "DPM adaptive": (2e-4, "its ends are in single precision there, and its controller amplifies rounding"),
}
"""Samplers of ComfyUI that are further away -> by how much at most, and the reason."""


class Denoiser:
    """The posterior mean of two Gaussians, guided from one without a bias where `guided`."""

    prediction = Sample()

    def __init__(self, noise_schedule: NoiseSchedule, guided: bool) -> None:
        self.noise_schedule, self.guided = noise_schedule, guided
        self.evaluations = 0

    def predicted(self, x: Any, timestep: Any, bias: Any) -> Any:
        alpha, sigma = (float(each) for each in self.noise_schedule.alpha_sigma(timestep[0]))
        y, d = x - alpha * bias, alpha**2 * VARIANCE + sigma**2
        return bias + (VARIANCE * alpha * y + sigma**2 * MEAN * np.tanh(MEAN * alpha * y / d)) / d

    def __call__(self, x: Any, timestep: Any) -> Any:
        return self.guided_and_unguided(x, timestep)[0]

    def guided_and_unguided(self, x: Any, timestep: Any) -> tuple[Any, Any]:
        self.evaluations += 1
        conditional, unguided = self.predicted(x, timestep, BIAS), self.predicted(x, timestep, 0 * BIAS)
        return unguided + (GUIDANCE if self.guided else 1.0) * (conditional - unguided), unguided


def sigmas_of(made: Sampler, noise_schedule: NoiseSchedule, steps: int) -> Any:
    """What programs call sigma, at each point."""
    grid = made.spacing.grid(noise_schedule, steps)
    return noise_schedule.scaling.sigma_from_log_snr([point.log_snr for point in grid])


def measured_levels() -> Iterator[tuple[str, Sampler, NoiseSchedule, int, list[float]]]:
    for model, schedules in COMFYUI["levels"].items():
        for name, figures in schedules.items():
            for steps, figure in figures.items():
                made = sampler("euler", name, world="comfyui")
                yield f"ComfyUI {model} {name} {steps}", made, NOISE_SCHEDULES[model], int(steps), figure
    for name, figures in A1111["levels"].items():
        for steps, figure in figures.items():
            yield f"A1111 {name} {steps}", sampler("Euler", name, world="a1111"), SD15, int(steps), figure


def test_every_schedule_of_a_world_has_the_levels_measured_there() -> None:
    compared, differ = 0, []
    for what, made, noise_schedule, steps, figure in measured_levels():
        ours = sigmas_of(made, noise_schedule, steps)
        compared += 1
        if len(ours) != len(figure) or not np.allclose(ours, figure, rtol=SAME_LEVELS, atol=1e-9):
            differ.append((what, ours, figure))
    assert not differ
    assert compared == 72 + 32


def made_here(name: str, key: str) -> tuple[Any, int, int]:
    """The sample of one of ComfyUI's names, the evaluations, and how often noise was drawn."""
    model, schedule, steps = key.split("/")
    noise_schedule = NOISE_SCHEDULES[model]
    made, network, drawn = (
        sampler(name, schedule, world="comfyui"),
        Denoiser(noise_schedule, name.endswith("cfg_pp")),
        0,
    )

    def noise(like: Any, sigma_from: float, sigma_to: float) -> Any:
        nonlocal drawn
        drawn += 1
        return np.array([COMFYUI["draws"]["numbers"][drawn - 1]])

    start = made.grid(noise_schedule, int(steps))[0].sigma * np.array([COMFYUI["start"]["numbers"]])
    result = sample(network, start, made, steps=int(steps), noise=noise)
    return result[0], network.evaluations, drawn


def test_every_sampler_of_comfyui_makes_the_samples_measured_there() -> None:
    compared, differ = set(), []
    for key, samplers in COMFYUI["samples"].items():
        for name, figure in samplers.items():
            made, evaluations, drawn = made_here(name, key)
            error = np.abs(made - np.array(figure["sample"])).max()
            compared.add((key, name))
            counts = (evaluations, drawn), (figure["evaluations"], figure["draws"])
            if counts[0] != counts[1] or not error < APART.get(name, (SAME_SAMPLES, ""))[0]:
                differ.append((key, name, error, *counts))
    assert not differ
    assert len(compared) == 12 * 37


def test_every_name_of_comfyui_gives_what_it_gives_there_in_other_numbers_of_steps() -> None:
    differ, compared = [], 0
    edm = VarianceExploding(sigma_max=120.0, conditioning="edm")
    for model, schedules in LATER["levels"].items():
        noise_schedule = edm if model == "edm" else NOISE_SCHEDULES[model]
        for name, figures in schedules.items():
            for steps, figure in figures.items():
                compared += 1
                ours = sigmas_of(sampler("euler", name, world="comfyui"), noise_schedule, int(steps))
                if len(ours) != len(figure) or not np.allclose(ours, figure, rtol=SAME_LEVELS, atol=1e-9):
                    differ.append((model, name, steps, ours, figure))
    for key, samplers in LATER["samples"].items():
        for name, figure in samplers.items():
            compared += 1
            made, *counts = made_here(name, key)
            error = np.abs(made - np.array(figure["sample"])).max()
            if counts != [figure["evaluations"], figure["draws"]] or not error < APART.get(name, (5e-5, ""))[0]:
                differ.append((key, name, error, counts, figure))
    assert not differ
    assert compared > 500


def test_every_sampler_of_a1111_makes_the_samples_measured_there() -> None:
    differ, compared = [], set()
    for key, samplers in A1111_SAMPLES.items():
        schedule, steps = key.split("/")
        for name, figure in samplers.items():
            made, network = sampler(name, schedule or None, world="a1111"), Denoiser(SD15, name == "DDIM CFG++")
            draws = iter(COMFYUI["draws"]["numbers"])
            size = made.grid(SD15, int(steps))[0].sigma if schedule else 1.0
            start = size * np.array([COMFYUI["start"]["numbers"]])
            asked = {} if made.solver.adaptive else {"steps": int(steps)}
            ours = sample(network, start, made, noise=lambda *where, d=draws: np.array([next(d)]), **asked)
            error = np.abs(ours[0] - np.array(figure["sample"])).max()
            compared.add(name)
            if network.evaluations != figure["evaluations"] or not error < APART.get(name, (SAME_SAMPLES, ""))[0]:
                differ.append((key, name, error, network.evaluations, figure["evaluations"]))
    assert not differ
    assert compared | {"LCM"} == set(WORLDS["a1111"].samplers)


def test_adaptive_samplers_of_a_program_end_where_so_many_steps_of_its_schedule_end() -> None:
    made = sampler("dpm_adaptive", "simple", world="comfyui")
    network = Denoiser(SD15, False)
    start = made.grid(SD15)[0].sigma * np.array([COMFYUI["start"]["numbers"]])
    twenty, more = (sample(network, start, made, steps=steps) for steps in (20, 31))
    np.testing.assert_array_equal(sample(network, start, made), twenty)
    assert np.abs(twenty - more).max() > 1e-3
    with pytest.raises(ValueError, match="a single sigma above 0, so that there is no way to divide: use 2 steps"):
        sampler("dpm_fast", "simple", world="comfyui").grid(SD15, 1)
    with pytest.raises(ValueError, match="steps is 1: expected at least 2, since the last of the timesteps is the end"):
        sampler("DDIM", world="a1111").grid(SD15, 1)


def test_worlds_differ_from_the_librarys_own_reading_only_where_asked() -> None:
    for name in CATALOG:
        for schedule in ("", " Karras"):
            assert sampler(name + schedule) == sampler(name + schedule, world=None)


@pytest.mark.parametrize(
    ("name", "schedule", "world", "message"),
    [
        ("euler", "karras", "comfy", "unknown world 'comfy': did you mean 'comfyui'?"),
        ("Restart", None, "comfyui", "ComfyUI has no sampler 'Restart': the nearest that it has is 'heun'."),
        ("dpmpp_3m karras", None, "a1111", "A1111 has no sampler 'dpmpp_3m karras': the nearest .* is 'DPM.. 2M'."),
        ("heunpp2", None, "k-diffusion", "k-diffusion has no sampler 'heunpp2': the nearest .* is 'sample_heun'."),
        ("eulr karras", None, "comfyui", "unknown sampler of ComfyUI 'eulr karras': did you mean 'euler karras'"),
        ("euler", "polyexponential", "comfyui", "unknown schedule of ComfyUI 'polyexponential': did you mean 'exponen"),
        ("DPM++ 2M Polyexponential", None, "comfyui", "unknown schedule of ComfyUI in 'DPM.. 2M Polyexponential'"),
        ("Euler", "linear_quadratic", "a1111", "unknown schedule of A1111 'linear_quadratic'"),
        ("ddim_uniform", None, "comfyui", "is a schedule of ComfyUI, not a sampler: .* example 'euler ddim_uniform'"),
        ("KL Optimal", None, "a1111", "is a schedule of A1111, not a sampler: .* 'DPM.. 2M KL Optimal'"),
        ("heun_cfg_pp", None, "comfyui", "unknown sampler of ComfyUI 'heun_cfg_pp': did you mean 'euler_cfg_pp'"),
    ],
)
def test_what_a_world_does_not_have_is_refused_with_the_nearest(
    name: str, schedule: str | None, world: str, message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        sampler(name, schedule, world=world)


def test_a_worlds_samplers_are_found_by_the_catalogs_names_too() -> None:
    for world in WORLDS.values():
        first: dict[str, str] = {}
        for made in world.samplers.values():
            first.setdefault(made.entry, made.name)
        for entry, name in first.items():
            for kind in SCHEDULE_TYPES.values():
                schedule = kind.called_in(world.name)
                if schedule is not None:
                    found = sampler(f"{entry} {kind.name}", world=world.name)
                    assert found == sampler(name, schedule, world=world.name), (world.name, entry, kind.name)


def test_every_name_that_the_catalog_says_a_world_has_is_there() -> None:
    for entry in CATALOG.values():
        for name in entry.comfyui:
            assert WORLDS["comfyui"].samplers[name].entry == entry.name
        assert entry.a1111 == (entry.name in WORLDS["a1111"].samplers)
    for kind in SCHEDULE_TYPES.values():
        for world in WORLDS.values():
            name = kind.called_in(world.name)
            assert name is None or name in world.schedules


def test_options_change_the_worlds_solver_and_schedule() -> None:
    made = sampler("euler_ancestral", "karras", world="comfyui", eta=0.5, rho=5.0)
    assert dict(made.solver.options) == {"ancestral": "rectified", "eta": 0.5}
    assert sigmas_of(made, SD15, 4)[1] != sigmas_of(sampler("euler_ancestral karras", world="comfyui"), SD15, 4)[1]
    with pytest.raises(UnknownNameError, match="unknown option of euler 'rhoo': did you mean 'rho'"):
        sampler("euler", "karras", world="comfyui", rhoo=5.0)


def test_noise_that_is_drawn_in_vain_is_part_of_the_plan_and_of_no_sum() -> None:
    made = sampler("exp_heun_2_x0_sde", "normal", world="comfyui")
    plan = made.plan(SD15, "epsilon", 6)
    drawn = [noise.register for stage in plan.stages for noise in stage.update.noises]
    read = {source for stage in plan.stages for write in stage.update.writes for source, _ in write.terms}
    assert len(drawn) == 10
    assert [register in read for register in drawn] == [True, False] * 5
    assert Plan.from_json(plan.to_json()) == plan


def test_commands_take_a_world(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        assert run(*arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    listed = json.loads(said("list", "--world", "comfyui", "--json"))
    assert {made["name"] for made in listed["samplers"]} == {made.entry for made in WORLDS["comfyui"].samplers.values()}
    assert [made["name"] for made in listed["schedule_types"]] == list(WORLDS["comfyui"].schedules)
    plan = tmp_path / "plan.json"
    assert "uni_pc normal (ComfyUI)" in said(
        "plan", "uni_pc normal", "--world", "comfyui", "--steps", "4", "--json", str(plan)
    )
    wanted = sampler("uni_pc", "normal", world="comfyui").plan(SD15, "epsilon", 4)
    assert Plan.from_json(plan.read_text(encoding="utf-8")) == wanted
    picture = tmp_path / "compared.png"
    said("compare", "euler karras", "--world", "comfyui", "--steps", "2", "--num", "1", "--out", str(picture))
    assert picture.exists()
    config = tmp_path / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}))
    out = ("--out", str(tmp_path / "new"))
    assert "not quite" not in said("convert", str(config), "--sampler", "euler karras", "--world", "comfyui", *out)
    assert "ComfyUI has it with end_sigma=" in said(
        "convert", str(config), "--sampler", "uni_pc karras", "--world", "comfyui", *out
    )
    for command in (
        ("list",),
        ("plan", "euler"),
        ("compare", "euler"),
        ("convert", str(config), "--sampler", "x", *out),
    ):
        assert run(*command, "--world", "comfy") == 2
        assert "unknown world 'comfy': did you mean 'comfyui'" in capsys.readouterr().err
    assert run("plan", "Restart", "--world", "comfyui") == 2
    assert "ComfyUI has no sampler 'Restart': the nearest that it has is 'heun'" in capsys.readouterr().err


def test_a_scheduler_of_a_world_is_one_that_makes_its_samples_or_an_error() -> None:
    model = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    made = scheduler("euler karras", like=model, world="comfyui")
    assert type(made).__name__ == "EulerDiscreteScheduler"
    assert made.config.use_karras_sigmas
    with pytest.raises(
        ValueError, match="no scheduler class is 'lms karras' of comfyui: ComfyUI has it with ends_with"
    ):
        scheduler("lms karras", like=model, world="comfyui")
    with pytest.raises(UnknownNameError, match="unknown world 'a111': did you mean 'a1111'"):
        scheduler("Euler", like=model, world="a111")


def test_in_the_world_of_diffusers_names_are_classes() -> None:
    made = sampler("DPMSolverMultistepScheduler", "karras", world="diffusers")
    network = Denoiser(SD15, False)
    there = diffusolve.DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        use_karras_sigmas=True,
        prediction_type="sample",
    )
    for steps in (8, 20):  # with lower orders at the end of a short run, and without
        there.set_timesteps(steps)
        start = np.array([COMFYUI["start"]["numbers"]])
        x = torch.tensor(there.grid[0].sigma * start)
        for timestep, stage in zip(there.timesteps, there.plan.stages, strict=True):
            alpha, sigma = stage.point.alpha, stage.point.sigma
            y, d = x.numpy() - alpha * BIAS, alpha**2 * VARIANCE + sigma**2
            data = BIAS + (VARIANCE * alpha * y + sigma**2 * MEAN * np.tanh(MEAN * alpha * y / d)) / d
            x = there.step(torch.tensor(data), timestep, x).prev_sample
        ours = sample(network, made.grid(SD15, steps)[0].sigma * start, made, steps=steps)
        np.testing.assert_allclose(ours, x.numpy(), atol=1e-4)
    with pytest.raises(
        ValueError, match="no sampler makes the steps of DDIMScheduler with 'DDIM Trailing': each of its"
    ):
        sampler("DDIM", "Trailing", world="diffusers")
    with pytest.raises(UnknownNameError, match="diffusers has no scheduler for 'SEEDS-2'; the nearest"):
        sampler("SEEDS-2", world="diffusers")
    with pytest.raises(UnknownNameError, match="'EulerDiscretScheduler': did you mean 'EulerDiscreteScheduler'"):
        sampler("EulerDiscretScheduler", world="diffusers")
    with pytest.raises(UnknownNameError, match="unknown schedule type of diffusers 'KL Optimal'"):
        sampler("EulerDiscreteScheduler", "KL Optimal", world="diffusers")


def test_dpm_fast_and_adaptive_end_where_the_schedule_of_comfyui_says() -> None:
    simple, karras = (sampler("dpm_fast", schedule, world="comfyui") for schedule in ("simple", "karras"))
    assert sigmas_of(simple, SD15, 5)[[0, -1]] == pytest.approx(
        np.array(COMFYUI["levels"]["sd15"]["simple"]["5"])[[0, -2]]
    )
    assert sigmas_of(karras, SD15, 5)[-1] == pytest.approx(SD15.sigma_min)
    adaptive = sampler("dpm_adaptive", "simple", world="comfyui")
    network = Denoiser(SD15, False)
    start = adaptive.grid(SD15, 1)[0].sigma * np.array([COMFYUI["start"]["numbers"]])
    assert np.isfinite(sample(network, start, adaptive)).all()


def test_bong_tangent_has_the_sigmas_measured_in_res4lyf() -> None:
    for steps, figure in BONG_TANGENT.items():
        for made in (sampler("Euler Bong tangent"), sampler("euler", "bong_tangent", world="comfyui")):
            np.testing.assert_allclose(made.grid(NOISE_SCHEDULES["sd3"], steps).sigmas, figure, atol=1e-7)
    with pytest.raises(ValueError, match="pivot is 1: expected a part of the steps, between 0 and 1"):
        sampler("Euler Bong tangent", pivot=1.0)
    with pytest.raises(ValueError, match="slope is 0: expected a positive number"):
        sampler("Euler Bong tangent", slope=0.0)


def test_beta57_is_beta_with_parameters_of_its_own() -> None:
    assert sampler("Euler Beta57").spacing == Beta(alpha=0.5, beta=0.7)
    timesteps = sampler("euler", "beta57", world="comfyui").grid(SD15, 8).timesteps
    assert timesteps.dtype == np.int64


def test_res_of_two_stages_is_seeds_without_noise_and_of_three_has_a_third_order_condition() -> None:
    grid = sampler("Euler Karras").grid(SD15, 6)
    same = trace(seeds_2.with_options(eta=0.0, solver_type="phi_2"), grid, Sample())
    made = trace(sampler("res_2s").solver, grid, Sample())
    for ours, theirs in zip(made.stages, same.stages, strict=True):
        np.testing.assert_allclose(
            [c for write in ours.update.writes for _, c in write.terms],
            [c for write in theirs.update.writes for _, c in write.terms],
            rtol=1e-9,
        )
    for options, message in (
        ({"order": 4}, "order is 4: expected 2 or 3"),
        ({"order": 3, "c_2": 2 / 3}, "c_2 is 0.666667: with order 3 it must not be 2/3"),
        ({"c_3": 0.5}, "c_3 is 0.5: expected a part of the step from 2/3 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            next(res_singlestep.with_options(**options)(grid, 1.0))


def test_deis_takes_the_polynomial_that_is_better_on_a_schedule_type() -> None:
    """By measurement: the error of one divided by that of the other, over models, data and numbers of steps."""
    for kind in ("Uniform", "DDIM", "KL Optimal", "Karras", "Simple", "Exponential"):
        ratios = []
        for model in ("sd15", "sd3", "edm"):
            for mean in (0.0, 0.9):
                network = against_euler.Denoiser(NOISE_SCHEDULES[model], mean)
                time, log_rho = (
                    against_euler.error(sampler("DEIS", kind, polynomial=variable), network, 10)
                    for variable in ("time", "log_rho")
                )
                ratios.append(math.log(log_rho / time))
        better = "time" if sum(ratios) > 0 else "log_rho"
        assert sampler(f"DEIS {kind}").solver == deis.with_options(polynomial=better), kind
    assert sampler("deis", "karras").solver == deis
    assert sampler("DEIS").solver == deis.with_options(polynomial="time")
    assert sampler("DEIS", polynomial="log_rho").solver == deis
    assert sampler("DEIS", Karras()).solver == deis


def test_a_world_is_named_in_any_case() -> None:
    for world in ("comfyui", "a1111", "k-diffusion"):
        spelt = world.upper().replace("-", " ")
        assert sampler("Euler", world=spelt) == sampler("Euler", world=world)
        assert entry_in_world("Euler", spelt) == entry_in_world("Euler", world)
    assert sampler("Euler", world="Diffusers") == sampler("Euler", world="diffusers")


def test_a_scheduler_stands_for_the_sampler_that_makes_its_steps() -> None:
    karras = diffusolve.DPMSolverMultistepScheduler(use_karras_sigmas=True, timestep_spacing="linspace")
    found = diffusolve.from_diffusers(karras)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if found.is_exact else "ignore")
        assert sampler(karras) == found.sampler()
    leading = diffusolve.EulerDiscreteScheduler(interpolation_type="log_linear")
    with pytest.warns(UserWarning, match=r"is not quite this EulerDiscreteScheduler: .*interpolation_type"):
        sampler(leading)
    with pytest.raises(ValueError, match="says itself where its steps fall"):
        sampler(karras, "karras")


def test_adaptive_samplers_take_steps_only_in_the_world_where_their_end_follows_from_them() -> None:
    def ends(world: str, name: str, steps: int | None, schedule_type: str | None = None) -> np.ndarray[Any, Any]:
        x = np.full((1, 4), 9.0)
        known = {"noise_schedule": SD15, "prediction_type": "sample"}
        recipe = sampler(name, schedule_type, world=world)
        return sample(lambda x, t: 0.5 * x, x, recipe, steps=steps, noise=0, **known)

    for world, name in (("a1111", "DPM adaptive"), ("k-diffusion", "sample_dpm_adaptive")):
        assert np.isfinite(ends(world, name, None)).all()
        with pytest.raises(ValueError, match=r"steps is 20, but .* chooses its steps by the data: leave steps out"):
            ends(world, name, 20)
    few, many = (ends("comfyui", "dpm_adaptive", steps, "simple") for steps in (5, 40))
    assert not np.allclose(few, many)
