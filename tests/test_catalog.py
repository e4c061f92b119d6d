"""Samplers by the names that people know."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from diffusolve.catalog import ALIASES, CATALOG, SCHEDULE_TYPES, sampler
from diffusolve.errors import UnknownNameError
from diffusolve.noise import SD15, FlowMatching, VarianceExploding
from diffusolve.solvers import SOLVERS, euler
from diffusolve.spacing import SPACINGS, Karras, Linspace, spacing

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
every_spelling = pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
SCHEDULES = {"VP": (SD15, "epsilon"), "VE": (VarianceExploding(), "edm"), "flow": (FlowMatching(3.0), "flow")}


@every_spelling
@pytest.mark.parametrize("name", [*CATALOG, *ALIASES])
def test_every_name_is_found_in_any_spelling(name: str, spell: Callable[[str], str]) -> None:
    known = ALIASES.get(name, name)
    made = sampler(spell(name))
    assert made.solver == CATALOG[known]
    assert (made.name, str(made)) == (known, known)
    for schedule_type in SCHEDULE_TYPES:
        made = sampler(spell(f"{name} {schedule_type}"))
        assert made.solver == CATALOG[known]
        assert made.name == f"{known} {schedule_type}"
        final = {"final_sigma": "sigma_min"} if made.solver.adaptive else {}
        assert made.spacing == spacing(SCHEDULE_TYPES[schedule_type], **final)


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.parametrize("schedule_type", SCHEDULE_TYPES)
@pytest.mark.parametrize(("schedule", "prediction"), SCHEDULES.values(), ids=SCHEDULES)
def test_every_sampler_plans_with_every_schedule_type(name: str, schedule_type: str, schedule, prediction: str) -> None:
    made = sampler(f"{name} {schedule_type}")
    if made.solver.adaptive:
        if schedule_type != "Leading":  # which starts its only step at the smallest level
            assert made.grid(VarianceExploding(), 1)[-1].sigma > 0
        return
    if schedule_type == "Uniform log-SNR" and isinstance(schedule, FlowMatching):
        made = sampler(name, spacing=spacing("uniform_log_snr", sigma_max=0.999))
    plan = made.plan(schedule, prediction, 11)
    assert plan.steps == 11
    assert plan.end.sigma == 0.0


def test_without_a_schedule_type_the_timesteps_are_equally_spaced() -> None:
    assert sampler("Euler").spacing == Linspace()
    assert sampler("Euler").name == "Euler"


def test_a_spacing_may_be_given_besides() -> None:
    assert sampler("Euler", spacing="karras").spacing == Karras()
    assert sampler("Euler", spacing=Karras(rho=5)).spacing == Karras(rho=5)
    for schedule_type, name in SCHEDULE_TYPES.items():
        for spelling in (schedule_type, schedule_type.lower(), name):
            assert sampler("Euler", spacing=spelling).spacing == spacing(name), spelling


def test_options_go_to_the_solver() -> None:
    assert sampler("Euler", eta=0.5).solver == euler.with_options(eta=0.5)
    assert sampler("DPM++ 2M SDE Karras", eta=0.5).solver == CATALOG["DPM++ 2M SDE"].with_options(eta=0.5)
    assert sampler("DPM++ 2M SDE", eta=0.0) != sampler("DPM++ 2M SDE")


def test_equal_names_make_equal_samplers() -> None:
    assert sampler("dpmpp_2m_karras") == sampler("DPM++ 2M Karras")
    assert hash(sampler("k_euler_a")) == hash(sampler("Euler a"))


def test_adaptive_samplers_end_at_the_smallest_trained_level() -> None:
    for made in (sampler("DPM adaptive Karras"), sampler("DPM adaptive", spacing=Karras(rho=5))):
        assert made.spacing.final_sigma == "sigma_min"
    assert sampler("DPM adaptive", spacing=Karras(rho=5)).spacing == Karras(rho=5, final_sigma="sigma_min")


def test_the_catalogs_solvers_are_all_registered() -> None:
    assert {made.name for made in CATALOG.values()} <= set(SOLVERS)


def test_aliases_lead_to_names_and_schedule_types_to_spacings() -> None:
    assert set(ALIASES.values()) <= set(CATALOG)
    assert set(SCHEDULE_TYPES.values()) <= set(SPACINGS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sampler("DPM++ 2N"), r"unknown sampler 'DPM\+\+ 2N': did you mean 'DPM\+\+ 2M'"),
        (lambda: sampler("Heum"), "did you mean 'Heun'"),
        (lambda: sampler("eulr"), "did you mean 'Euler'"),
        (lambda: sampler("Euler Karas"), "did you mean 'Euler Karras'"),
        (lambda: sampler("Karras"), "unknown sampler 'Karras'"),
        (lambda: sampler(""), "unknown sampler ''"),
        (lambda: sampler("DPM++ 2M", spacing="karas"), "unknown spacing 'karas': did you mean 'karras'"),
        (lambda: sampler("Euler", etta=1.0), "unknown option of euler 'etta': did you mean 'eta'"),
        (lambda: sampler("Heun", eta=1.0), "unknown option of heun 'eta': did you mean 's_"),
    ],
)
def test_unknown_names_offer_the_nearest(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make()


def test_a_schedule_type_and_a_spacing_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="names the schedule type 'Karras' already: leave spacing='beta' out"):
        sampler("Euler Karras", spacing="beta")
