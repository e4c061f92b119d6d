"""A bounded run of the attack on configurations; the long one: ``python -m tests.attack.configurations``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve.config import config_keys
from diffusolve.schedulers.keys import IN_CLASS, KEYS, rules_of
from tests.attack.configurations import NAMES, defaults, storm
from tests.tables import for_each


def test_a_nasty_value_is_an_error_that_names_its_key_or_runs_to_finite_samples() -> None:
    ended, faults = storm(1600, seed=20)
    assert not faults, faults
    assert ended["runs"] > 300
    assert ended["refused"] > 1000


@for_each("name", NAMES)
def test_every_key_of_a_class_has_a_rule_that_its_default_follows(name: str) -> None:
    cls = getattr(diffusolve, name)
    rules, made = rules_of(cls), cls(**defaults(name))
    assert rules.keys() == set(config_keys(cls))
    for key in config_keys(cls):
        assert rules[key].kept(key, made.config[key]) is made.config[key], key


def test_every_rule_is_that_of_a_key_that_a_class_has() -> None:
    lineages = {name: [base.__name__ for base in getattr(diffusolve, name).__mro__] for name in NAMES}
    assert KEYS.keys() == {key for name in NAMES for key in config_keys(getattr(diffusolve, name))}
    for name, rules in IN_CLASS.items():
        heirs = [each for each, lineage in lineages.items() if name in lineage]
        assert rules.keys() <= {key for each in heirs for key in config_keys(getattr(diffusolve, each))}, name


EULER = "EulerDiscreteScheduler"
REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    (
        EULER,
        {"num_train_timesteps": 10**12},
        ValueError,
        "num_train_timesteps is 1000000000000: expected a who",
    ),
    (
        EULER,
        {"num_train_timesteps": 10.5},
        ValueError,
        "num_train_timesteps is 10.5: expected a whole number",
    ),
    (EULER, {"beta_start": "0.1"}, TypeError, "beta_start is '0.1': expected a number from 0 to 1"),
    (EULER, {"beta_start": True}, TypeError, "beta_start is True"),
    (EULER, {"beta_end": 10**400}, ValueError, r"beta_end is 1000.*\(401 characters\): expected a number from 0 to 1"),
    (EULER, {"trained_betas": [0.1, 1.1]}, ValueError, r"trained_betas\[1\] is 1.1: expected a number from 0 to 1"),
    (EULER, {"trained_betas": "linear"}, TypeError, "trained_betas is 'linear': expected a list of at least 1 num"),
    (EULER, {"use_karras_sigmas": "false"}, TypeError, "use_karras_sigmas is 'false': expected True or False"),
    (
        EULER,
        {"prediction_type": "v_predicton"},
        ValueError,
        "prediction_type 'v_predicton': did you mean 'v_pred",
    ),
    (EULER, {"prediction_type": None}, ValueError, "unknown prediction_type None"),
    (EULER, {"sigma_max": float("inf")}, ValueError, "sigma_max is inf: expected a number from 1e-09 to"),
    ("UniPCMultistepScheduler", {"disable_corrector": [1, -1]}, ValueError, r"disable_corrector\[1\] is -1"),
    ("UniPCMultistepScheduler", {"solver_p": "Euler"}, TypeError, "expected an object with a method step, or None"),
    ("SASolverScheduler", {"tau_func": 0.5}, TypeError, "tau_func is 0.5: expected a function, or None"),
    ("UnCLIPScheduler", {"clip_sample_range": None}, ValueError, "clip_sample_range is None.*clip_sample is True"),
    ("EDMEulerScheduler", {"sigma_min": 90.0}, ValueError, "sigma_min < sigma_max, got 90 and 80"),
]


@for_each(("name", "config", "kind", "message"), REFUSED)
def test_a_value_is_refused_in_the_same_words_wherever_it_comes_in(
    name: str, config: dict[str, Any], kind: type[Exception], message: str
) -> None:
    cls = getattr(diffusolve, name)
    writing, ((key, value),) = cls(), config.items()

    def begin(make: Callable[..., Any], *given: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            scheduler = make(*given) or writing
        scheduler.set_timesteps(4)  # which looks at keys that contradict each other

    messages = set()
    for way in (
        partial(begin, partial(cls, **config)),
        partial(begin, cls.from_config, config),
        partial(begin, partial(writing.register_to_config, **config)),
        partial(begin, setattr, writing.config, key, value),
    ):
        with pytest.raises(kind, match=message) as error:
            way()
        messages.add(str(error.value))
    assert len(messages) == 1


@for_each(
    ("betas", "message"),
    [
        ({"beta_end": 0.9}, "beta_end = 0.9, num_train_timesteps = 1000: alphas_cumprod is .* at timestep"),
        ({"beta_start": 0}, "beta_start = 0, .*alphas_cumprod is 1 at timestep 0"),
        ({"trained_betas": [0.5] * 1000}, "trained_betas = .*alphas_cumprod is .* at timestep 999"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 entries: expected 1000"),
    ],
)
def test_betas_that_no_step_can_be_made_of_are_refused_by_the_first_run(betas: dict[str, Any], message: str) -> None:
    scheduler = diffusolve.EulerDiscreteScheduler(**betas)
    assert len(scheduler.betas) == len(betas.get("trained_betas", range(1000)))
    with pytest.raises(ValueError, match=message):
        scheduler.set_timesteps(4)


@for_each(("name",), [("DDIMScheduler",), ("DDPMScheduler",), ("DDIMInverseScheduler",)])
def test_a_step_that_stands_alone_needs_the_signal_at_its_own_timestep(name: str) -> None:
    scheduler = getattr(diffusolve, name)(beta_start=0.01, beta_end=0.2)
    scheduler.set_timesteps(10)
    x = torch.ones(1, 4)
    assert scheduler.step(x, int(scheduler.timesteps.min()), x).prev_sample.isfinite().all()
    with pytest.raises(
        ValueError, match=r"alphas_cumprod is .* at timestep 900, expected at least 1e-30, as there is up"
    ):
        scheduler.step(x, 900, x)


TAKEN: list[tuple[str, dict[str, Any]]] = [
    (EULER, {"beta_start": np.float32(0.001), "beta_end": np.float64(0.02), "num_train_timesteps": np.int64(500)}),
    (EULER, {"num_train_timesteps": 500.0, "steps_offset": 1.0}),
    (EULER, {"beta_start": torch.tensor(0.001), "steps_offset": torch.tensor(1)}),
    (EULER, {"use_karras_sigmas": np.bool_(True), "rescale_betas_zero_snr": 0, "use_beta_sigmas": None}),
    (EULER, {"trained_betas": np.linspace(0.001, 0.02, 1000), "beta_schedule": "measured"}),
    (EULER, {"trained_betas": torch.linspace(0.001, 0.02, 1000)}),
    (EULER, {"trained_betas": tuple(np.linspace(0.001, 0.02, 1000).tolist())}),
    ("DDIMScheduler", {"clip_sample": 1.0, "clip_sample_range": float("inf")}),
    ("DDPMScheduler", {"variance_type": None}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3.0, "solver_type": "bh2", "lambda_min_clipped": -5}),
    ("DPMSolverSDEScheduler", {"noise_sampler_seed": [1, np.int64(2)]}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3, "base_shift": None}),
    ("SASolverScheduler", {"tau_func": lambda t: 0.0}),
]


@for_each(("name", "config"), TAKEN)
def test_a_value_of_another_type_that_means_the_same_is_taken(name: str, config: dict[str, Any]) -> None:
    scheduler = getattr(diffusolve, name)(**config)
    scheduler.set_timesteps(3)
    x = torch.randn(2, 4, 4, 4)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, t)), t, x).prev_sample
    assert x.isfinite().all()


def test_a_whole_number_written_with_a_point_and_a_word_of_another_class_are_kept_as_this_class_has_them() -> None:
    scheduler = diffusolve.DPMSolverMultistepScheduler(solver_order=2.0, solver_type="bh2")  # type: ignore[arg-type]
    assert type(scheduler.config.solver_order) is int
    assert scheduler.config.solver_type == "midpoint"


@for_each(
    ("text", "message"),
    [
        ('{"self": 1}', ""),
        ('{"my_key": {"a": [1, "x", null]}}', ""),
        ('{"_use_default_values": 5}', "_use_default_values is 5: expected a list of keys"),
        ('{"beta_end": ' + "9" * 10_000 + "}", "a value for 'beta_end' that is too large to read"),
        ('{"beta_end": ' + "[" * 100_000 + "]" * 100_000 + "}", "a value for 'beta_end' that is too large to read"),
        ('{"my_key": ' + "[" * 100_000 + "]" * 100_000 + "}", "a value for 'my_key' that is too large to read"),
        ('{"my_key": [NaN]}', "my_key of .* is not a number"),
    ],
    ids=("self", "nested", "defaults", "digits", "deep", "deep and unknown", "NaN"),
)
def test_files_with_keys_that_no_class_has(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text(text)
    if message:
        with pytest.raises((ValueError, TypeError), match=message):
            diffusolve.EulerDiscreteScheduler.from_pretrained(tmp_path)
    else:
        kept = diffusolve.EulerDiscreteScheduler.from_pretrained(tmp_path).config
        ((key, value),) = json.loads(text).items()
        assert kept[key] == value


def test_lists_in_themselves_are_an_error() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="my_key of EulerDiscreteScheduler has lists in thousands of lists"):
        diffusolve.EulerDiscreteScheduler.from_config({"my_key": circle})


def test_a_class_of_a_user_has_rules_for_the_keys_that_it_takes_over() -> None:
    class Mine(diffusolve.EulerDiscreteScheduler):
        @diffusolve.config.register_to_config
        def __init__(self, num_train_timesteps: int = 1000, eta: str = "much") -> None:
            super().__init__(num_train_timesteps=num_train_timesteps)

    assert Mine().config.eta == "much"
    with pytest.raises(TypeError, match="num_train_timesteps is 'many'"):
        Mine(num_train_timesteps="many")  # type: ignore[arg-type]
