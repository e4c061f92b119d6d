"""What a person types in the first hour: names and shapes instead of objects, and what is said where that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve import k_diffusion, spacing
from diffusolve.denoisers import Denoiser
from diffusolve.errors import UnknownNameError
from diffusolve.schedulers import CLASSES
from tests.test_cli import run

EULER = diffusolve.sampler("Euler Karras")


def test_a_noise_schedule_is_taken_by_its_name_wherever_one_is_taken() -> None:
    by_name, by_value = EULER.plan("sdxl", "epsilon", 4), EULER.plan(diffusolve.SD15, "epsilon", 4)
    assert by_name == by_value
    assert EULER.grid("flux", 4) == EULER.grid(diffusolve.NOISE_SCHEDULES["flux"], 4)
    assert Denoiser(None, "flow", "sd3").noise_schedule == diffusolve.noise_schedule("sd3")
    x = torch.ones(1, 2)
    named, given = (
        diffusolve.sample(lambda x, t: x, x, EULER, steps=3, noise_schedule=schedule, prediction_type="sample")
        for schedule in ("sd15", diffusolve.SD15)
    )
    assert torch.equal(named, given)


def test_noise_schedules_of_models_are_values_too_and_the_table_in_the_docs_is_whole() -> None:
    text = (Path(__file__).parents[1] / "docs" / "names.md").read_text(encoding="utf-8")
    table = text.split("## Noise schedules")[1].split("## Worlds")[0]
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| `?([\w-]+)`? \|", table, re.MULTILINE)}
    assert set(rows) == set(diffusolve.NOISE_SCHEDULES)
    values = {name: value for name, value in rows.items() if value != "-"}
    assert set(values) == {"sd15", "sdxl", "sd3", "flux", "edm"}
    for name, value in values.items():
        assert getattr(diffusolve, value) is getattr(diffusolve.noise, value) is diffusolve.NOISE_SCHEDULES[name]


def test_a_shape_is_enough_to_start() -> None:
    grid = EULER.grid("sd15", 4)
    for shape in ((2, 4, 8, 8), [2, 4, 8, 8], torch.Size((2, 4, 8, 8))):
        started = diffusolve.start(grid, shape, [0, 1])
        assert torch.equal(started, diffusolve.start(grid, torch.empty(2, 4, 8, 8), [0, 1]))


def test_what_is_no_name_or_shape_is_said_with_what_would_be() -> None:
    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda: EULER.grid("sd51", 4), UnknownNameError, "unknown noise schedule 'sd51': did you mean 'sd15'"),
        (lambda: EULER.plan(15, "epsilon", 4), TypeError, "noise_schedule is 15: expected a name (sd15, "),
        (lambda: Denoiser(None, "epsilon", "flax"), UnknownNameError, "did you mean 'flux'"),
        (lambda: diffusolve.start("sd15", (1, 2)), TypeError, "the plan or the grid to start on, got 'sd15'"),
        (lambda: diffusolve.start(EULER.grid("sd15", 4), ()), ValueError, "expected an array, or a shape"),
        (lambda: diffusolve.start(EULER.grid("sd15", 4), (1, 0)), ValueError, "like is (1, 0): expected an array"),
        (lambda: diffusolve.start(EULER.grid("sd15", 4), 3), TypeError, "expected a torch tensor"),
        (lambda: diffusolve.EulerDiscreteSheduler, AttributeError, "did you mean 'EulerDiscreteScheduler'"),
    ]
    missed = []
    for call, kind, text in wrong:
        try:
            call()
        except kind as error:
            if text not in str(error):
                missed.append((text, str(error)))
        else:
            missed.append((text, "no error"))
    assert not missed


def test_values_of_the_wrong_kind_are_said_in_words() -> None:
    x, n = torch.ones(1, 2), np.ones((1, 2), np.float32)
    scheduler = diffusolve.EulerDiscreteScheduler()
    scheduler.set_timesteps(4)

    def sampled(x: Any, output: Any) -> Any:
        return diffusolve.sample(lambda x, t: output, x, EULER.plan("sd15", "epsilon", 2))

    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda: diffusolve.sampler("Euler a", eta="x"), TypeError, "eta is 'x': expected a number for euler"),
        (lambda: diffusolve.sampler("Euler", steps=20), UnknownNameError, "no option of euler: give it where a plan"),
        (lambda: diffusolve.sampler("Euler", cfg_scale=7), UnknownNameError, "ClassifierFreeGuidance"),
        (lambda: scheduler.set_timesteps("20"), TypeError, "num_inference_steps is '20': expected a whole number"),
        (lambda: scheduler.set_timesteps(20.5), TypeError, "num_inference_steps is 20.5: expected a whole number"),
        (lambda: scheduler.step(n, scheduler.timesteps[0], n), TypeError, "model_output is a ndarray: schedulers step"),
        (lambda: diffusolve.EulerScheduler, AttributeError, "'EulerDiscreteScheduler'"),
        (lambda: sampled(n, x), TypeError, "returned a torch Tensor for samples in a numpy ndarray"),
        (lambda: sampled(x, n), TypeError, "returned a numpy ndarray for samples in a torch Tensor"),
        (lambda: k_diffusion.sampling.sample_dpmpp_2M, AttributeError, "did you mean 'sample_dpmpp_2m'"),
        (
            lambda: k_diffusion.sampling.get_sigmas_karras("4", 0.1, 9),
            TypeError,
            "n is '4': expected a whole",
        ),
        (lambda: diffusolve.PlanModule("Euler"), TypeError, "PlanModule is made of a Plan, not 'Euler'"),
    ]
    missed = []
    for call, kind, text in wrong:
        with pytest.raises(kind) as raised:
            call()
        if text not in str(raised.value):
            missed.append((text, str(raised.value)))
    assert not missed
    assert [row["steps"] for row in diffusolve.compare("Euler", 3, model="gaussian", num=1, error=False).rows] == [3]


class _Wide(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x


def test_what_cannot_be_called_as_a_network_is_said_in_words() -> None:
    x, plan = torch.ones(1, 2), EULER.plan("sd15", "epsilon", 2)
    wrong: list[tuple[Any, str]] = [
        (_Wide, "network is the class _Wide: expected an instance, _Wide(...)"),
        (5, "network is 5: expected something to call with samples"),
        (None, "network is None: expected something to call"),
        (x, "network is a Tensor: expected something to call"),
        (_Wide(), "network _Wide(x) was called with samples and timesteps"),
        (lambda x: x, "network <lambda>(x) was called with samples and timesteps"),
        (lambda x, t, c: x, "network <lambda>(x, t, c) was called with samples and timesteps"),
    ]
    missed = []
    for sampler, more in ((plan, {}), (diffusolve.sampler("DPM adaptive"), MADE_FOR)):
        for network, text in wrong:
            with pytest.raises(TypeError) as raised:
                diffusolve.sample(network, x, sampler, **more)  # type: ignore[call-overload]
            if text not in str(raised.value):
                missed.append((text, str(raised.value)))
    assert not missed


MADE_FOR = {"noise_schedule": "sd15", "prediction_type": "epsilon"}


def test_an_error_inside_a_network_stays_its_own() -> None:
    def network(x: Any, timestep: Any) -> Any:
        return len(x, timestep)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match=r"len\(\) takes exactly one argument"):
        diffusolve.sample(network, torch.ones(1, 2), EULER.plan("sd15", "epsilon", 2))


TAKES_NUMBERS = {"FlowMapEulerDiscreteScheduler", "HeliosDMDScheduler", "MiniMaxH3Scheduler"}
"""Classes whose noise goes by one number too, as in diffusers."""

STEPS_OTHERWISE = {
    "CogVideoXDPMScheduler",
    "ConsistencyDecoderScheduler",
    "DDPMWuerstchenScheduler",  # takes one for each sample
    "HeliosDMDScheduler",
    "HeliosScheduler",
    "KarrasVeScheduler",
    "PiflowScheduler",
    "RePaintScheduler",
    "SCMScheduler",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
}
"""Classes whose `step` or `set_timesteps` takes other arguments than most."""


def test_timesteps_of_the_wrong_kind_are_said_in_words_by_every_class() -> None:
    x, missed = torch.ones(2, 3, 8, 8), []
    for name in set(CLASSES) - {"RFD4ProteinaScheduler"}:  # which needs more to be made
        scheduler: Any = getattr(diffusolve, name)()
        if name not in TAKES_NUMBERS | {"KarrasVeScheduler"} and hasattr(scheduler, "add_noise"):
            with pytest.raises(TypeError) as noised:
                scheduler.add_noise(x, x, 5)
            if "timesteps is 5: expected a tensor with one for each sample" not in str(noised.value):
                missed.append((name, str(noised.value)))
        if name not in STEPS_OTHERWISE:
            scheduler.set_timesteps(4)
            with pytest.raises(ValueError, match="timestep") as stepped:
                scheduler.step(x, scheduler.timesteps[:2].clone(), x)
            if "timestep is 2 timesteps" not in str(stepped.value):
                missed.append((name, str(stepped.value)))
    assert not missed


def unsaid(words: str, call: Callable[[], object], name: str) -> list[tuple[str, str, str]]:
    """What `call` does instead of raising an error of the user's kind with these `words`; nothing if it does."""
    try:
        call()
    except (TypeError, ValueError) as error:
        return [] if words in str(error) else [(name, words, repr(error))]
    except Exception as error:  # of another kind: raw
        return [(name, words, repr(error))]
    return [(name, words, "no error")]


def test_samples_and_timesteps_that_are_none_are_said_in_words_by_every_class() -> None:
    x, missed = torch.ones(2, 3, 8, 8), []
    whole, array = torch.ones(2, 3, 8, 8, dtype=torch.int64), np.ones((2, 3, 8, 8))
    cases: list[tuple[Any, Any, Any, str]] = [
        (array, None, x, "model_output is a ndarray: schedulers step torch tensors"),
        (x, None, array, "sample is a ndarray: schedulers step torch tensors"),
        (None, None, x, "model_output is a NoneType: schedulers step torch tensors"),
        (whole, None, whole, "model_output is of torch.int64: expected floating-point numbers"),
        (x, None, whole, "sample is of torch.int64: expected floating-point numbers"),
        (x, True, x, "timestep is True: expected one of scheduler.timesteps, or its number"),
        (x, "999", x, "timestep is '999': expected one of scheduler.timesteps, or its number"),
        (x, float("nan"), x, "timestep is nan: expected one of scheduler.timesteps, or its number"),
        (x, float("inf"), x, "timestep is inf: expected one of scheduler.timesteps, or its number"),
    ]
    for name in sorted(set(CLASSES) - {"RFD4ProteinaScheduler"} - STEPS_OTHERWISE):
        for output, timestep, sample, words in cases:
            scheduler: Any = getattr(diffusolve, name)()
            scheduler.set_timesteps(4)
            told = scheduler.timesteps[0] if timestep is None else timestep
            missed += unsaid(words, lambda: scheduler.step(output, told, sample), name)  # noqa: B023  # called at once
    assert not missed, "\n".join(map(str, missed))


def test_an_output_that_is_none_is_said_in_words_where_noise_is_drawn_in_its_precision() -> None:
    x, ddim = torch.ones(2, 3, 8, 8), diffusolve.DDIMScheduler()
    ddim.set_timesteps(4)
    for output in (None, x.numpy()):
        with pytest.raises(TypeError, match=r"model_output is a .*: schedulers step torch tensors"):
            ddim.step(output, ddim.timesteps[0], x, eta=1.0)  # type: ignore[arg-type]


def test_what_noise_is_made_of_and_for_is_said_in_words() -> None:
    x, missed = torch.ones(2, 3, 8, 8), []
    cases: list[tuple[Any, Any, int, str]] = [
        (x.numpy(), x, 2, "sample is a ndarray: schedulers add noise to torch tensors"),
        (x, x.numpy(), 2, "noise is a ndarray: schedulers add noise to torch tensors"),
        (x.long(), x, 2, "sample is of torch.int64: expected floating-point numbers"),
        (x, x[:, :2], 2, r"noise has shape (2, 2, 8, 8): expected that of the samples, (2, 3, 8, 8)"),
        (x, x, 3, "timesteps holds 3 for 2 samples: expected one for each, or one for all"),
    ]
    others = {"ConsistencyDecoderScheduler", "KarrasVeScheduler", "RFD4ProteinaScheduler", "ScoreSdeVpScheduler"}
    for name in sorted(set(CLASSES) - TAKES_NUMBERS - others - {"HeliosScheduler", "PiflowScheduler"}):
        scheduler: Any = getattr(diffusolve, name)()
        timestep = torch.tensor([1])
        if name not in STEPS_OTHERWISE | {"SCMScheduler"}:
            scheduler.set_timesteps(4)
            timestep = scheduler.timesteps[:1]
        for samples, noise, count, words in cases:
            missed += unsaid(words, lambda: scheduler.add_noise(samples, noise, timestep.repeat(count)), name)  # noqa: B023
    assert not missed, "\n".join(map(str, missed))


def test_what_else_is_no_value_is_said_in_words() -> None:
    x = torch.ones(2, 3, 8, 8)

    def euler_a(**options: Any) -> Any:
        scheduler = diffusolve.EulerAncestralDiscreteScheduler()
        scheduler.set_timesteps(4)
        return scheduler.step(x, scheduler.timesteps[0], x, **options)

    def sampled(network: Any = lambda x, t: 0.1 * x, **options: Any) -> Any:
        return diffusolve.sample(network, x, EULER.plan("sd15", "epsilon", 2), **options)

    def log_prob(**options: Any) -> Any:
        scheduler = diffusolve.EulerAncestralDiscreteScheduler()
        scheduler.set_timesteps(4)
        return scheduler.step_log_prob(x, scheduler.timesteps[0], x, **options)

    class Boundary(diffusolve.DDIMScheduler):
        pass

    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: euler_a(generator=5), TypeError, "generator is 5: expected a torch.Generator"),
        (lambda: Boundary().set_timesteps(4, "gpu9"), ValueError, "device is 'gpu9': expected one of PyTorch's"),
        (lambda: Boundary().set_timesteps(4, 3.5), ValueError, "device is 3.5: expected one of PyTorch's"),  # type: ignore[arg-type]
        (lambda: spacing.Counted(inner="Karras"), TypeError, "inner of Counted is 'Karras': expected a spacing"),  # type: ignore[arg-type]
        (lambda: spacing.Shifted(shift=3.0, inner=3), TypeError, "inner of Shifted is 3: expected a spacing"),  # type: ignore[arg-type]
        (lambda: sampled(lambda x, t: x + 1j), TypeError, "the network returned torch.complex64: expected floating"),
        (lambda: sampled(lambda x, t: x > 0), TypeError, "the network returned torch.bool: expected floating"),
        (lambda: sampled(clip=1.0), TypeError, "clip is 1.0: expected a function"),
        (lambda: sampled(clip=lambda x0: x0[:1]), ValueError, r"clip returned .* for data of shape \(2, 3, 8, 8\)"),
        (lambda: sampled(callback=3), TypeError, "callback is 3: expected a function"),
        (lambda: diffusolve.learn(lambda x, t: x, x, minute=3), ValueError, "option of learn 'minute': did you mean"),
        (lambda: log_prob(next_sample=x), ValueError, "option of EulerAncestralDiscreteScheduler.step_log_prob"),
        (
            lambda: diffusolve.sampler("DDIM", world="a1111").plan("sd15", "epsilon", 600),
            ValueError,
            "two of them begin at the last timestep; use at most 500",
        ),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words):
            call()
    with pytest.raises(AttributeError, match="CogVideoXDDIMScheduler has no _threshold_sample"):
        diffusolve.CogVideoXDDIMScheduler()._threshold_sample(x)


def test_an_uncaught_misspelt_name_has_one_hint() -> None:
    code = "import diffusolve; diffusolve.denoiser"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr.lower().count("did you mean") == 1, run.stderr
    assert "did you mean 'denoisers'" in run.stderr


def test_reprs_fit_on_a_line_or_two() -> None:
    plan = EULER.plan("sd15", "epsilon", 20)
    assert repr(plan) == "<Plan euler(), epsilon: 20 steps, 20 evaluations, 1 register>"
    for value in (plan, plan.to_json, EULER, EULER.grid("sd15", 20), *diffusolve.NOISE_SCHEDULES.values()):
        assert len(repr(value)) < 300, value


def test_rooms_are_there_after_import_diffusolve() -> None:
    code = (
        "import diffusolve; diffusolve.denoisers.Denoiser; diffusolve.noise.SD15; diffusolve.spacing.Karras; "
        "diffusolve.k_diffusion.sampling; diffusolve.solvers; "
        "assert {'denoisers', 'noise', 'spacing', 'k_diffusion'} <= set(dir(diffusolve))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


WITHOUT_TORCH = """
import sys
from collections.abc import Callable
from pathlib import Path
sys.modules["torch"] = None  # importing it fails as where it is not installed
import numpy as np
import pytest
import diffusolve

def said(call):
    try:
        call()
    except ImportError as error:
        return str(error)
    return "nothing"

needs = {
    name: said(lambda: getattr(diffusolve, name))
    for name in ("EulerDiscreteScheduler", "AmusedScheduler", "PlanModule", "k_diffusion")
}
needs["import k_diffusion"] = said(lambda: __import__("diffusolve.k_diffusion"))
needs["*"] = said(lambda: exec("from diffusolve import *", {}))
needs["to_diffusers"] = said(lambda: diffusolve.to_diffusers("Euler"))
wrong = {name: text for name, text in needs.items() if "pip install 'diffusolve[torch]'" not in text}
assert not wrong, wrong

sampler = diffusolve.sampler("DPM++ 2M Karras")
plan = sampler.plan("sd15", "epsilon", 5)
assert diffusolve.Plan.from_json(plan.to_json()) == plan
x = diffusolve.start(plan, (2, 3), [0, 1])
assert isinstance(x, np.ndarray) and x.dtype == np.float32
made = diffusolve.sample(lambda x, t: 0 * x, x, plan)
assert isinstance(made, np.ndarray) and np.isfinite(made).all()
"""


def test_without_torch_plans_and_arrays_work_and_the_rest_says_what_to_install() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_numpy_arrays_stay_numpy_arrays() -> None:
    x = diffusolve.start(EULER.grid("sd15", 3), np.empty((1, 2), np.float32), 0)
    assert isinstance(diffusolve.sample(lambda x, t: x, x, EULER.plan("sd15", "sample", 3)), np.ndarray)


def test_the_program_says_its_version_and_how_names_with_spaces_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"diffusolve {diffusolve.__version__}\n"
    assert run("-h") == 0
    assert "compare" in capsys.readouterr().out
    assert run("plan", "DPM++", "2M", "Karras") == 2
    assert 'Quote a name with spaces: "DPM++ 2M Karras"' in " ".join(capsys.readouterr().err.replace("│", "").split())
    for arguments, text in (
        (("compare", "Euler", "--steps", "5,x"), "'--steps': '5,x', expected a whole number."),
        (("sample", "--steps", "2.5"), "'--steps': '2.5', expected a whole number."),
        (("sample", "--guidance", "x"), "'--guidance': 'x', expected a number."),
    ):
        assert run(*arguments) == 2
        assert text in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert run("compare", "Euler", "--steps", "3,4", "--num", "1", "--out", tmp_path / "c.png") == 0
    module = subprocess.run([sys.executable, "-m", "diffusolve", "--version"], capture_output=True, text=True)
    assert module.stdout == f"diffusolve {diffusolve.__version__}\n"
