"""Samplers by the names that people know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffusolve import k_diffusion
from diffusolve.catalog import ALIASES, CATALOG, SCHEDULE_TYPES, sampler
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.errors import NotPlannableError, UnknownNameError
from diffusolve.noise import SD15, FlowMatching, VarianceExploding
from diffusolve.sampling import sample
from diffusolve.solvers import SOLVERS, euler
from diffusolve.spacing import SPACINGS, DiscardPenultimate, Exponential, Karras, Linspace, Polyexponential, Spacing
from tests.tables import for_each

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda name: name,
    "lower case": str.lower,
    "upper case": str.upper,
    "underscores": lambda name: name.replace(" ", "_"),
    "hyphens": lambda name: name.replace(" ", "-"),
    "no spaces": lambda name: name.replace(" ", ""),
    "spaces around": lambda name: f"  {name} ",
    "pp": lambda name: name.replace("++", "pp"),
}
every_spelling = for_each("spell", SPELLINGS.values(), ids=SPELLINGS)
SCHEDULES = {"VP": (SD15, "epsilon"), "VE": (VarianceExploding(), "edm"), "flow": (FlowMatching(3.0), "flow")}


@every_spelling
@for_each("name", [*CATALOG, *ALIASES])
def test_every_name_is_found_in_any_spelling(name: str, spell: Callable[[str], str]) -> None:
    known = ALIASES.get(name, name)
    made = sampler(spell(name))
    assert made.solver == CATALOG[known].solver_on("Uniform")
    assert (made.name, str(made)) == (known, known)
    for schedule_type, wanted in SCHEDULE_TYPES.items():
        made = sampler(spell(f"{name} {schedule_type}"), discard_next_to_last_sigma=False)
        assert made.solver == CATALOG[known].solver_on(schedule_type)
        assert made.name == f"{known} {schedule_type}"
        if not CATALOG[known].spaces_itself:
            assert made.spacing == wanted.spacing


@for_each("name", CATALOG)
@for_each("schedule_type", SCHEDULE_TYPES)
@for_each(("schedule", "prediction"), SCHEDULES.values(), ids=SCHEDULES)
def test_every_sampler_plans_with_every_schedule_type(name: str, schedule_type: str, schedule, prediction: str) -> None:
    made = sampler(f"{name} {schedule_type}")
    if made.solver.adaptive:
        if schedule_type not in ("Leading", "Linear quadratic"):  # one starts its only step at the smallest level
            assert made.grid(VarianceExploding(), 1)[-1].sigma > 0
        return
    flow = isinstance(schedule, FlowMatching)
    refused = {
        "Linear quadratic": None if flow else "flow matching",
        "Uniform log-SNR": "give a smaller sigma_max" if flow else None,
    }.get(schedule_type)
    if refused is not None and not CATALOG[name].spaces_itself:
        with pytest.raises(ValueError, match=refused):
            made.plan(schedule, prediction, 11)
        return
    plan = made.plan(schedule, prediction, 11)
    assert made.grid(schedule, 11).steps == 11
    assert (plan.end.sigma == 0.0) == (not CATALOG[name].spaces_itself)


def test_without_a_schedule_type_the_timesteps_are_equally_spaced() -> None:
    assert sampler("Euler").spacing == Linspace()
    assert sampler("Euler").name == "Euler"


def test_a_spacing_may_be_given_besides() -> None:
    assert sampler("Euler", spacing="karras").spacing == Karras()
    assert sampler("Euler", spacing=Karras(rho=5)).spacing == Karras(rho=5)
    for schedule_type, wanted in SCHEDULE_TYPES.items():
        for spelling in (schedule_type, schedule_type.lower(), schedule_type.replace(" ", "_")):
            assert sampler("Euler", spacing=spelling).spacing == wanted.spacing, spelling
    for made in SCHEDULE_TYPES.values():
        if made.comfyui is not None:
            assert sampler("Euler", spacing=made.comfyui).spacing == made.spacing
    for name in SPACINGS:
        assert isinstance(sampler("Euler", spacing=name).spacing, Spacing)


def test_options_go_to_the_solver() -> None:
    assert sampler("Euler", eta=0.5).solver == euler.with_options(eta=0.5)
    assert sampler("DPM++ 2M SDE Karras", eta=0.5).solver == CATALOG["DPM++ 2M SDE"].solver.with_options(eta=0.5)
    assert sampler("DPM++ 2M SDE", eta=0.0) != sampler("DPM++ 2M SDE")
    churned = sampler("Heun", s_churn=10, s_tmin=0.1, s_tmax=8.0, s_noise=1.003)
    assert dict(churned.solver.options) == {"s_churn": 10.0, "s_tmin": 0.1, "s_tmax": 8.0, "s_noise": 1.003}


def test_options_go_to_the_spacing() -> None:
    assert sampler("Euler Karras", rho=5, sigma_max=10.0).spacing == Karras(rho=5, sigma_max=10.0)
    assert sampler("Euler a", spacing="polyexponential", rho=2).spacing == Polyexponential(rho=2)
    assert sampler("Euler Karras", final_sigma="sigma_min").spacing == Karras(final_sigma="sigma_min")


@pytest.mark.parametrize("name", ["DPM2", "DPM2 a", "DPM++ 3M SDE"])
def test_the_next_to_last_sigma_is_discarded_where_a1111_discards_it(name: str) -> None:
    made = sampler(f"{name} Karras")
    assert made.spacing == DiscardPenultimate(Karras())
    assert made.grid(SD15, 10).steps == 10
    assert sampler(f"{name} Karras", discard_next_to_last_sigma=False).spacing == Karras()
    assert sampler(name, spacing=Karras()).spacing == Karras(), "a spacing given is taken as it is"
    assert sampler("Euler Karras").spacing == Karras()
    assert sampler("Euler Karras", discard_next_to_last_sigma=True).spacing == DiscardPenultimate(Karras())


def test_automatic_is_what_a1111_chooses() -> None:
    assert sampler("DPM++ 2M automatic").spacing == Karras()
    assert sampler("DPM++ 2M SDE Automatic").spacing == Exponential()
    assert sampler("Euler a", spacing="Automatic").spacing == Linspace()


def test_ensd_shifts_the_seeds_of_the_noise_between_steps() -> None:
    network, x = GaussianDenoiser(SD15, 0.3, 0.5), np.random.default_rng(0).standard_normal((3, 4))

    def sampled(seed: int, **options: int) -> np.ndarray:
        return sample(network, x, sampler("Euler a", **options), steps=6, noise=[seed, seed + 1, seed + 2])

    np.testing.assert_array_equal(sampled(5, ensd=31337), sampled(5 + 31337))
    assert not np.array_equal(sampled(5, ensd=31337), sampled(5))
    with pytest.raises(TypeError, match="seed offset of 3, which needs seeds"):
        sample(network, x, sampler("Euler a", ensd=3), steps=6, noise=np.random.default_rng(0))


def test_brownian_noise_makes_more_steps_a_finer_version_of_the_same_sample() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchsde")
    x = 14.6 * torch.randn(2, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = GaussianDenoiser(SD15, 0.3, 0.5)

    def sampled(steps: int, brownian: bool) -> torch.Tensor:
        made = sampler("DPM++ 2M SDE Karras", brownian=brownian, final_sigma="sigma_min")
        return sample(network, x / 14.6, made, steps=steps, noise=[1, 2])

    fine = sampled(160, True)
    assert (sampled(80, True) - fine).square().mean() < 0.2 * (sampled(80, False) - sampled(160, False)).square().mean()


def test_equal_names_make_equal_samplers() -> None:
    assert sampler("dpmpp_2m_karras") == sampler("DPM++ 2M Karras")
    assert hash(sampler("k_euler_a")) == hash(sampler("Euler a"))


def test_adaptive_samplers_end_at_the_smallest_trained_level() -> None:
    for made in (sampler("DPM adaptive Karras"), sampler("DPM adaptive", spacing=Karras(rho=5))):
        assert made.spacing.final_sigma == "sigma_min"
    assert sampler("DPM adaptive", spacing=Karras(rho=5)).spacing == Karras(rho=5, final_sigma="sigma_min")


def test_the_catalogs_solvers_are_all_registered() -> None:
    assert {made.solver.name for made in CATALOG.values()} <= set(SOLVERS)


def test_every_name_means_one_sampler() -> None:
    names = [name for entry in CATALOG.values() for name in (entry.name, *entry.names)]
    assert len(set(names)) == len(names)
    assert {entry.nearest for entry in CATALOG.values()} <= set(CATALOG)
    assert {entry.automatic for entry in CATALOG.values()} <= set(SCHEDULE_TYPES)


@for_each("schedule_type", [*SCHEDULE_TYPES, "Automatic"])
def test_dpm_adaptive_walks_the_whole_schedule_whichever_type_is_named(schedule_type: str) -> None:
    grid = sampler(f"DPM adaptive {schedule_type}").grid(SD15, 1)
    assert [point.sigma / point.alpha for point in grid] == pytest.approx([SD15.sigma_max, SD15.sigma_min])
    with pytest.raises(NotPlannableError, match="chooses its steps by looking at the data"):
        sampler(f"DPM adaptive {schedule_type}").plan(SD15, "epsilon", 20)


A1111 = (
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler",
    "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC",
    "LCM",
)  # fmt: skip
A1111_SCHEDULES = (
    "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps", "Simple",
    "Normal", "DDIM", "Beta",
)  # fmt: skip
COMFYUI = (
    "euler", "euler_ancestral", "heun", "heunpp2", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive",
    "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "ddpm", "lcm",
    "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_ancestral", "gradient_estimation", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "exp_heun_2_x0", "ddim", "uni_pc", "uni_pc_bh2", "euler_cfg_pp",
    "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp", "dpmpp_2s_ancestral_cfg_pp", "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation_cfg_pp", "cfgpp_ud10_ab",
)  # fmt: skip
COMFYUI_SCHEDULES = (
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
    "kl_optimal",
)  # fmt: skip
RES4LYF_SCHEDULES = ("beta57", "bong_tangent")
"""Of a collection of nodes for ComfyUI, which puts them into its list."""


def test_the_lists_of_other_programs_are_complete() -> None:
    assert set(A1111) == {entry.name for entry in CATALOG.values() if entry.a1111}
    assert set(A1111_SCHEDULES) == {made.a1111 for made in SCHEDULE_TYPES.values()} - {None}
    assert set(COMFYUI) <= {name for entry in CATALOG.values() for name in entry.comfyui}
    assert {*COMFYUI_SCHEDULES, *RES4LYF_SCHEDULES} == {made.comfyui for made in SCHEDULE_TYPES.values()} - {None}
    functions = {name for name in k_diffusion.sampling.__all__ if name.startswith("sample_")}
    assert functions == {entry.k_diffusion for entry in CATALOG.values()} - {None}


def test_comfyuis_names_of_schedules_may_stand_in_a_name_as_they_may_besides() -> None:
    for made in SCHEDULE_TYPES.values():
        if made.comfyui is not None:
            together, besides = sampler(f"dpmpp_2m {made.comfyui}"), sampler("dpmpp_2m", made.comfyui)
            assert together.spacing == besides.spacing == made.spacing, made.name


@for_each(
    ("name", "spacing", "world"),
    [
        (None, None, None),
        (b"euler", None, "comfyui"),
        (5, None, "diffusers"),
        ("euler", 5, None),
        ("euler", 0, None),
        ("euler", 5, "comfyui"),
        ("Euler", 0, "a1111"),
    ],
)
def test_what_is_no_name_is_refused_by_its_type(name: Any, spacing: Any, world: str | None) -> None:
    with pytest.raises(TypeError, match=r"(None|b'euler'|5|0) is no name: expected text"):
        sampler(name, spacing, world=world)


@for_each(
    ("make", "message"),
    [
        (lambda: sampler("DPM++ 2N"), r"unknown sampler 'DPM\+\+ 2N': did you mean .*'DPM\+\+ 2M'"),
        (lambda: sampler("Heum"), "did you mean 'Heun'"),
        (lambda: sampler("eulr"), "did you mean 'Euler'"),
        (lambda: sampler("DPM++ 2M AYS"), "did you mean 'DPM.. 2M Align Your Steps'"),
        (lambda: sampler("DPM++ 2M", "ays"), "unknown spacing 'ays': did you mean 'Align Your Steps'"),
        (lambda: sampler("euler sgm"), "did you mean 'euler SGM Uniform'"),
        (
            lambda: sampler("heun_cfg_pp karras"),
            "'heun_cfg_pp karras': did you mean .*'euler_cfg_pp Karras'",
        ),
        (lambda: sampler("Euler Karas"), "did you mean 'Euler Karras'"),
        (lambda: sampler("Karras"), "unknown sampler 'Karras'"),
        (lambda: sampler("euler_ancestrall"), "did you mean 'euler_ancestral'"),
        (lambda: sampler(""), "unknown sampler ''"),
        (lambda: sampler("DPM++ 2M", spacing="karas"), "unknown spacing 'karas': did you mean 'karras'"),
        (lambda: sampler("Euler", etta=1.0), "unknown option of euler 'etta': did you mean 'eta'"),
        (lambda: sampler("Euler", rho=7), "unknown option of euler 'rho'"),
        (lambda: sampler("Heun", eta=1.0), "unknown option of heun 'eta': did you mean 's_"),
    ],
)
def test_unknown_names_offer_the_nearest(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make()


@for_each(
    ("options", "message"),
    [
        ({"eta": -0.1}, "eta is -0.1: expected at least 0"),
        ({"s_churn": -1.0}, "s_churn is -1: expected at least 0"),
        ({"s_churn": 1.0, "s_tmin": 2.0, "s_tmax": 1.0}, "s_tmin is 2 and s_tmax 1: expected 0 <= s_tmin <= s_tmax"),
        ({"rho": -7.0}, "rho is -7: expected a positive number"),
        ({"sigma_min": 20.0}, "expected 0 < sigma_min < sigma_max"),
    ],
)
def test_options_out_of_range_are_refused_with_the_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler("Euler Karras", **options).plan(SD15, "epsilon", 10)


def test_a_schedule_type_and_a_spacing_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="names the schedule type 'Karras' already: leave spacing='beta' out"):
        sampler("Euler Karras", spacing="beta")
