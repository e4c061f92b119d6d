"""ComfyUI's nodes, driven by a stand-in for the program: what it calls, and what models answer there.

Set COMFYUI_CHECKOUT to a folder with ComfyUI's code, its requirements installed, to run them in the program itself.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.catalog import WORLDS
from diffusolve.errors import NotPlannableError, PlanFormatError, UnknownNameError
from diffusolve.noise import NOISE_SCHEDULES, SD15, TabulatedSignal
from diffusolve.plan import Plan
from tests.tables import for_each

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "integrations" / "comfyui"
PACKAGE = "nodes_of_diffusolve"
COMFYUI = json.loads((ROOT / "tests" / "data" / "comfyui_names.json").read_text(encoding="utf-8"))
MEAN, VARIANCE, BIAS = (torch.tensor(COMFYUI["denoiser"][key], dtype=torch.float64) for key in ("mean", "v", "bias"))

SAME = 2e-5
"""Of samples of size 1, on sigmas in single precision."""


# The stand-in


class Ksampler:
    """ComfyUI's KSAMPLER by its name there: noise at the first sigma, then the function, then the way back to data."""

    def __init__(self, sampler_function: Any) -> None:
        self.sampler_function = sampler_function

    def sample(
        self, model: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, image: Tensor
    ) -> Tensor:
        trained = model.inner_model.model_patcher.get_model_object("model_sampling")
        x = trained.noise_scaling(sigmas[0], noise, image)
        result: Tensor = self.sampler_function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=True)
        return result / (1 - sigmas[-1]) if trained.flow else result


class ModelSampling:
    """What a model tells of its sigmas."""

    def __init__(self, trained: str) -> None:
        self.flow = trained in ("sd3", "flux")
        self.schedule: Any = NOISE_SCHEDULES[trained]
        count = 10_000 if trained == "flux" else 1000
        index = (
            (np.arange(count) + 1) * self.schedule.num_train_timesteps / count - 1 if self.flow else np.arange(count)
        )
        shift = getattr(self.schedule, "shift", 1.0)
        time = (index + 1) / self.schedule.num_train_timesteps
        table = shift * time / (1 + (shift - 1) * time) if self.flow else self.schedule.sigma_at_index(index)
        self.sigmas = torch.tensor(table, dtype=torch.float32)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, image: Tensor) -> Tensor:
        return sigma * noise + ((1 - sigma) * image if self.flow else image)

    def timestep(self, sigma: Tensor) -> Tensor:
        nearest = (self.sigmas - sigma).abs().argmin()
        return nearest if isinstance(self.schedule, diffusolve.VariancePreserving) else sigma.log() / 4


class Model:
    """A MODEL, and what is made of it for sampling; it predicts the posterior mean of two Gaussians."""

    def __init__(self, trained: str = "sd15", guidance: float = 1.0) -> None:
        self.sampling, self.guidance = ModelSampling(trained), guidance
        self.inner_model = SimpleNamespace(model_patcher=self)
        self.asked: list[float] = []

    def get_model_object(self, name: str) -> ModelSampling:
        assert name == "model_sampling"
        return self.sampling

    def predicted(self, x: Tensor, sigma: Tensor, bias: Tensor) -> Tensor:
        sigma = sigma.double()[:, None]
        alpha = 1 - sigma if self.sampling.flow else torch.ones_like(sigma)
        y, d = x - alpha * bias, alpha**2 * VARIANCE + sigma**2
        return bias + (VARIANCE * alpha * y + sigma**2 * MEAN * torch.tanh(MEAN * alpha * y / d)) / d

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        self.asked.append(float(sigma[0]))
        conditional, unguided = self.predicted(x, sigma, BIAS), self.predicted(x, sigma, 0 * BIAS)
        denoised = unguided + self.guidance * (conditional - unguided)
        for function in (model_options or {}).get("sampler_post_cfg_function", []):
            denoised = function({"denoised": denoised, "uncond_denoised": unguided})
        return denoised


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The modules of ComfyUI that the nodes import."""
    comfy, samplers, folders = (ModuleType(name) for name in ("comfy", "comfy.samplers", "folder_paths"))
    vars(samplers)["KSAMPLER"] = Ksampler
    vars(folders)["get_input_directory"] = lambda: str(tmp_path)
    for module in (comfy, samplers, folders):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def pack(module: str = "") -> Any:
    """The package, imported as ComfyUI imports a folder of custom_nodes, or one of its modules."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACKAGE, FOLDER / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACKAGE])
    return importlib.import_module(f"{PACKAGE}.{module}" if module else PACKAGE)


def made(node: str, *args: Any, **options: Any) -> Any:
    """The outputs of a node; the only one by itself."""
    kind = pack().NODE_CLASS_MAPPINGS[node]
    outputs = getattr(kind(), kind.FUNCTION)(*args, **options)
    assert len(outputs) == len(kind.RETURN_TYPES)
    return outputs if len(outputs) > 1 else outputs[0]


def sampled(
    model: Model,
    sampler: Any,
    sigmas: Tensor,
    noise: Tensor | None = None,
    seed: Any = 3,
    told: list[Any] | None = None,
) -> Tensor:
    """What ComfyUI makes with a SAMPLER on SIGMAS."""
    noise = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double() if noise is None else noise
    callback = None if told is None else told.append
    extra: dict[str, Any] = {"model_options": {}, "seed": seed}
    result: Tensor = sampler.sample(model, sigmas.double(), extra, callback, noise, torch.zeros_like(noise))
    return result


# Samplers


def test_every_name_of_comfyui_makes_the_samples_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: Iterator[list[float]]
    monkeypatch.setattr(
        pack("walk"), "between_steps", lambda *_: lambda like, start, end: like.new_tensor([next(draws)])
    )
    wrong, compared = [], 0
    for key, figures in COMFYUI["samples"].items():
        trained, schedule, steps = key.split("/")
        for name, figure in figures.items() if steps == "5" else ():
            draws = iter(COMFYUI["draws"]["numbers"])
            model = Model(trained, guidance=0.7 if name.endswith("cfg_pp") else 1.0)
            discards = WORLDS["comfyui"].samplers[name].discards
            sigmas = made("DiffusolveSigmasComfyUI", model, schedule, 5, 1.0, discard_penultimate=discards)
            start = torch.tensor([COMFYUI["start"]["numbers"]], dtype=torch.float64)
            result = sampled(model, made("DiffusolveSamplerComfyUI", name), sigmas, start)
            # The figures are the function's; KSAMPLER then divides by alpha at the end that UniPC puts in 0's place.
            left = 1 - 2.0**-10 if name.startswith("uni_pc") and trained == "sd3" else 1.0
            error = float((left * result[0] - torch.tensor(figure["sample"])).abs().max())
            compared += 1
            if len(model.asked) != figure["evaluations"] or not error < (1e-4 if name == "deis" else SAME):
                wrong.append((key, name, error))
    assert not wrong
    assert compared == 6 * 37


def euler_by_hand(model: Model, x: Tensor, sigmas: Sequence[float], noise: Sequence[Tensor] = ()) -> Tensor:
    """Euler's method, or with noise the ancestral one for samples x0 + sigma * noise."""
    for i, (s, t) in enumerate(pairwise(sigmas)):
        slope = (x - model(x, torch.full((len(x),), s))) / s
        added = min(t, (t**2 * (s**2 - t**2) / s**2) ** 0.5) if noise and t > 0 else 0.0
        x = x + slope * ((t**2 - added**2) ** 0.5 - s)
        x = x + added * noise[i] if added else x
    return x


@for_each("trained", ["sd15", "edm", "sd3", "flux"])
def test_eulers_method_is_that_of_the_text_books(trained: str) -> None:
    model, noise = Model(trained), torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigmas = made("DiffusolveSigmas", model, "Karras" if trained == "edm" else "Normal", 7, 1.0)
    told: list[Any] = []
    result = sampled(model, made("DiffusolveSampler", "Euler"), sigmas, noise, told=told)
    by_hand = euler_by_hand(model, noise * float(sigmas[0]), sigmas.tolist())
    torch.testing.assert_close(result, by_hand, rtol=1e-9, atol=1e-9)
    assert [one["i"] for one in told] == [*range(7)]
    assert [float(one["sigma"]) for one in told] == pytest.approx(sigmas[:-1].tolist(), rel=1e-6)
    torch.testing.assert_close(told[0]["x"], noise * float(sigmas[0]))
    torch.testing.assert_close(told[-1]["denoised"], result)


def test_noise_between_steps_is_drawn_as_in_comfyui() -> None:
    model, sigmas = Model(), made("DiffusolveSigmasComfyUI", Model(), "karras", 5, 1.0)
    start = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(12 + 1)
    draws = [torch.randn(2, 6, dtype=torch.float64, generator=generator) for _ in range(4)]
    by_hand = euler_by_hand(model, start * float(sigmas[0]), sigmas.tolist(), draws)
    for node, name in (("DiffusolveSampler", "Euler a"), ("DiffusolveSamplerComfyUI", "euler_ancestral")):
        result = sampled(model, made(node, name), sigmas, start, seed=12)
        torch.testing.assert_close(result, by_hand, rtol=1e-9, atol=1e-9)


def test_sa_solver_has_no_lower_orders_where_the_sigmas_end_above_0_as_in_comfyui() -> None:
    model = Model()
    sigmas = made("DiffusolveSigmasComfyUI", model, "karras", 8, 1.0)
    usual, full = (made("DiffusolveSamplerComfyUI", "sa_solver", o) for o in ("", "lower_order_final=false"))
    assert torch.equal(sampled(model, usual, sigmas[:6]), sampled(model, full, sigmas[:6]))
    assert not torch.equal(sampled(model, usual, sigmas), sampled(model, full, sigmas))


def test_adaptive_samplers_go_from_the_first_sigma_to_the_last_above_0() -> None:
    for trained in ("sd15", "sd3"):
        model, sampler = Model(trained), made("DiffusolveSamplerComfyUI", "dpm_adaptive", "rtol=0.001, atol=0.0001")
        sigmas = made("DiffusolveSigmasComfyUI", model, "exponential", 60, 1.0)
        result = sampled(model, sampler, sigmas[[0, -2]])
        assert max(model.asked) == float(sigmas[0])
        data = 1 - float(sigmas[-2]) if trained == "sd3" else 1.0  # the stand-in divides by it
        torch.testing.assert_close(sampled(model, sampler, sigmas), result * data)
        fine = sampled(model, made("DiffusolveSampler", "Heun"), sigmas[:-1])
        torch.testing.assert_close(result, fine, rtol=0, atol=0.01)


def test_options_are_the_samplers_and_wrong_ones_are_answered_in_words() -> None:
    parsed = pack("nodes").parsed
    assert parsed(" eta=0.5, solver_type = heun,use=True ,") == {"eta": 0.5, "solver_type": "heun", "use": True}
    sigmas, model = made("DiffusolveSigmas", Model(), "Karras", 5, 1.0), Model()
    none = sampled(model, made("DiffusolveSampler", "Euler a", "eta=0"), sigmas)
    assert torch.equal(none, sampled(model, made("DiffusolveSampler", "Euler"), sigmas))
    with pytest.raises(ValueError, match=r"options has 'eta 0.5': expected name=value, as in eta=0.5"):
        parsed("eta 0.5")
    with pytest.raises(UnknownNameError, match="unknown option of euler 'etta': did you mean 'eta'"):
        made("DiffusolveSampler", "Euler a", "etta=0.5")
    with pytest.raises(UnknownNameError, match="unknown sampler of ComfyUI 'eulr'"):
        made("DiffusolveSamplerComfyUI", "eulr")


def test_fewer_than_two_sigmas_leave_the_sample_alone() -> None:
    for sigmas in ([], [1.0]):
        function = made("DiffusolveSampler", "Euler").sampler_function
        assert torch.equal(function(Model(), torch.ones(1, 6), torch.tensor(sigmas)), torch.ones(1, 6))


# Sigmas


def test_every_schedule_of_comfyui_has_the_sigmas_measured_there() -> None:
    wrong = []
    for trained, schedules in COMFYUI["levels"].items():
        for name, figures in schedules.items():
            for steps, figure in figures.items():
                sigmas = made("DiffusolveSigmasComfyUI", Model(trained), name, int(steps), 1.0)
                if len(sigmas) != len(figure) or not np.allclose(sigmas, figure, rtol=SAME, atol=1e-7):
                    wrong.append((trained, name, steps, sigmas, figure))
    assert not wrong


def test_below_1_denoise_takes_the_last_steps_of_a_longer_way() -> None:
    whole = made("DiffusolveSigmas", Model(), "Karras", 20, 1.0)
    assert torch.equal(made("DiffusolveSigmas", Model(), "Karras", 10, 0.5), whole[-11:])


def test_a_models_noise_schedule_is_read_off_its_answers() -> None:
    levels = pack("levels")
    read = levels.noise_schedule_of(ModelSampling("sd15"))
    assert isinstance(read, TabulatedSignal)
    np.testing.assert_allclose(read.training_sigmas, SD15.training_sigmas, rtol=1e-6)
    for trained, count in (("sd3", 1000), ("flux", 10_000)):
        flow = levels.noise_schedule_of(ModelSampling(trained))
        assert (flow.shift, flow.num_train_timesteps) == (pytest.approx(NOISE_SCHEDULES[trained].shift, 1e-5), count)
    edm = levels.noise_schedule_of(ModelSampling("edm"))
    assert (edm.sigma_min, edm.sigma_max) == (pytest.approx(0.002), pytest.approx(80))
    strange = ModelSampling("edm")
    strange.sigmas = torch.linspace(0.1, 10, 1000)
    with pytest.raises(ValueError, match="take SIGMAS from one of ComfyUI's own"):
        levels.noise_schedule_of(strange)


# Noise


def test_a_row_of_a_batch_is_what_its_seed_makes_alone() -> None:
    for trained in ("sd15", "sd3"):
        model = Model(trained)
        sigmas = made("DiffusolveSigmasComfyUI", model, "karras", 5, 1.0)
        for name in ("euler_ancestral", "dpmpp_2m_sde"):
            sampler, noise = made("DiffusolveSamplerComfyUI", name), made("DiffusolveNoisePerRow", 5)
            start = noise.generate_noise({"samples": torch.zeros(3, 6)}).double()
            batch = sampled(model, sampler, sigmas, start, noise.seed)
            for i in range(3):
                alone = torch.randn(1, 6, generator=torch.Generator().manual_seed(5 + i))
                assert torch.equal(start[i : i + 1], alone.double())
                one = sampled(model, sampler, sigmas, alone.double(), seed=5 + i)
                torch.testing.assert_close(batch[i : i + 1], one)


def test_rows_taken_out_of_a_batch_keep_their_seeds() -> None:
    noise = made("DiffusolveNoisePerRow", 5)
    batch = noise.generate_noise({"samples": torch.zeros(3, 4)})
    assert torch.equal(noise.generate_noise({"samples": torch.zeros(1, 4), "batch_index": [2]}), batch[2:])
    assert (int(noise.seed), noise.seed.of(1)) == (5, [7])
    assert copy.deepcopy(noise.seed).of(1) == [7]
    with pytest.raises(ValueError, match="the noise was made for 1 rows and the batch has 2"):
        noise.seed.of(2)


# Plans


def plan_file(folder: Path, name: str = "DPM++ 2M Karras", trained: str = "sd15", prediction: str = "epsilon") -> Plan:
    plan = diffusolve.sampler(name).plan(trained, prediction, 6)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    return plan


@for_each(
    "name, trained, prediction",
    [
        ("DPM++ 2M Karras", "sd15", "epsilon"),
        ("UniPC Karras", "sd15", "v_prediction"),
        ("Heun Karras", "edm", "edm"),
        ("DPM++ 2M Karras", "sd3", "flow"),
        ("Euler CFG++ Karras", "sd15", "sample"),
        ("DPM++ 2M SDE", "sd3", "flow"),
    ],
)
def test_a_plan_makes_what_its_sampler_makes_by_name(name: str, trained: str, prediction: str, tmp_path: Path) -> None:
    plan_file(tmp_path, name, trained, prediction)
    model = Model(trained, guidance=0.7)
    walked, sigmas = made("DiffusolvePlan", "plan.json")
    named = made("DiffusolveSampler", name.removesuffix(" Karras"))
    torch.testing.assert_close(sampled(model, walked, sigmas), sampled(model, named, sigmas), rtol=1e-5, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_a_plan_says_what_is_wrong_with_what_it_is_given(folder: Path) -> None:
    node = pack().NODE_CLASS_MAPPINGS["DiffusolvePlan"]
    with pytest.raises(FileNotFoundError, match=r"there is no plan at .*plan.json: write one with diffusolve plan"):
        node().make("plan.json")
    plan_file(folder)
    before = node.IS_CHANGED("plan.json")
    walked, sigmas = made("DiffusolvePlan", "plan.json")
    with pytest.raises(
        ValueError, match=r"has sigmas of its own, 7 from .* connect the SIGMAS of the same node, all of"
    ):
        sampled(Model(), walked, sigmas[2:])
    with pytest.raises(ValueError, match=r"made for samples x0 .* this model has flow matching: .* --schedule sd3"):
        sampled(Model("sd3"), walked, sigmas)
    plan_file(folder, trained="sd3", prediction="flow")
    assert node.IS_CHANGED("plan.json") != before
    walked, sigmas = made("DiffusolvePlan", "plan.json")
    with pytest.raises(ValueError, match=r"made for flow matching and this model has samples x0 .* --schedule sd15"):
        sampled(Model(), walked, sigmas)
    (folder / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PlanFormatError, match="not a plan"):
        node().make("plan.json")


# Pictures


def test_the_sums_of_a_picture_are_the_plans() -> None:
    rows = pack("picture").sums(diffusolve.sampler("DPM++ 2M Karras").plan(SD15, "epsilon", 4))
    assert [list(row) for row in rows] == [["sample", "x0"], *[["sample", "x0", "x0, 1 before"]] * 2, ["x0"]]
    for row, stage in zip(rows, diffusolve.sampler("DPM++ 2M Karras").plan(SD15, "sample", 4).stages, strict=True):
        assert [*row.values()] == [coefficient for write in stage.update.writes for _, coefficient in write.terms]
    rows = pack("picture").sums(diffusolve.sampler("UniPC Karras").plan(SD15, "epsilon", 6))
    constant = [sum(weight for source, weight in row.items() if source.startswith("x0")) for row in rows]
    assert constant[-1] == pytest.approx(1.0)  # at sigma = 0 the sample is a mean of predictions


def test_a_picture_is_an_image_of_any_of_our_samplers(folder: Path) -> None:
    for trained in ("sd15", "sd3"):
        model = Model(trained)
        for name, steps in (("UniPC", 6), ("DPM fast", 30)) if trained == "sd15" else (("Euler CFG++", 4),):
            sigmas = made("DiffusolveSigmas", model, "Karras", steps, 1.0)
            image = made("DiffusolvePicture", model, made("DiffusolveSampler", name), sigmas)
            assert (image.ndim, image.shape[0], image.shape[3], image.dtype) == (4, 1, 3, torch.float32)
            assert 0 <= image.min() < image.max() <= 1
    plan_file(folder)
    assert made("DiffusolvePicture", Model(), *made("DiffusolvePlan", "plan.json")).ndim == 4


def test_a_picture_of_what_has_no_table_is_refused_in_words() -> None:
    sigmas = made("DiffusolveSigmas", Model(), "Karras", 5, 1.0)
    with pytest.raises(ValueError, match="which has no table of coefficients: connect one of diffusolve's"):
        made("DiffusolvePicture", Model(), Ksampler(print), sigmas)
    with pytest.raises(NotPlannableError, match="chooses its steps"):
        made("DiffusolvePicture", Model(), made("DiffusolveSampler", "DPM adaptive"), sigmas)


# The folder


def test_every_node_says_what_it_is_and_what_each_input_means() -> None:
    nodes = pack().NODE_CLASS_MAPPINGS
    assert set(nodes) == set(pack().NODE_DISPLAY_NAME_MAPPINGS)
    for node in nodes.values():
        inputs = {name: spec for group in node.INPUT_TYPES().values() for name, spec in group.items()}
        assert set(inspect.signature(getattr(node, node.FUNCTION)).parameters) - {"self"} == set(inputs)
        assert all(options["tooltip"].endswith(".") for _, options in inputs.values())
        assert node.DESCRIPTION.endswith(".")
        assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES)
        for kind, options in inputs.values():
            assert isinstance(kind, str) or options["default"] in kind


def test_all_names_of_comfyui_and_of_the_catalog_can_be_chosen() -> None:
    chosen = {node: [*kind.INPUT_TYPES()["required"].values()] for node, kind in pack().NODE_CLASS_MAPPINGS.items()}
    for name in chosen["DiffusolveSampler"][0][0]:
        made("DiffusolveSampler", name)
    for name in chosen["DiffusolveSamplerComfyUI"][0][0]:
        made("DiffusolveSamplerComfyUI", name)
    measured = {name for samplers in COMFYUI["samples"].values() for name in samplers}
    assert measured <= set(chosen["DiffusolveSamplerComfyUI"][0][0])
    assert set(COMFYUI["levels"]["sd15"]) <= set(chosen["DiffusolveSigmasComfyUI"][1][0])


def test_the_workflow_has_the_nodes_and_values_of_the_pack() -> None:
    workflow = json.loads((FOLDER / "example_workflows" / "samplers_and_picture.json").read_text(encoding="utf-8"))
    nodes, ours = {node["id"]: node for node in workflow["nodes"]}, pack().NODE_CLASS_MAPPINGS
    used = [node for node in nodes.values() if node["type"] in ours]
    assert {node["type"] for node in used} >= {"DiffusolveSampler", "DiffusolveSigmas", "DiffusolvePicture"}
    for node in used:
        kind = ours[node["type"]]
        inputs = {name: spec for group in kind.INPUT_TYPES().values() for name, spec in group.items()}
        linked = [socket["name"] for socket in node["inputs"]]
        widgets = [spec for name, spec in inputs.items() if name not in linked]
        assert set(linked) <= set(inputs)
        assert [output["type"] for output in node["outputs"]] == [*kind.RETURN_TYPES]
        values = [value for value in node["widgets_values"] if value not in ("fixed", "randomize")]
        for value, (accepted, _) in zip(values, widgets, strict=True):
            assert isinstance(accepted, str) or value in accepted
    for link, source, output, target, socket, kind in workflow["links"]:
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][socket]["type"] == kind
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link


def test_a_folder_that_hides_the_library_is_refused(folder: Path) -> None:
    hiding = folder / "diffusolve" / "__init__.py"
    hiding.parent.mkdir()
    hiding.write_text((FOLDER / "__init__.py").read_text(encoding="utf-8"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("hiding", hiding)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match="called diffusolve, as the library is, and hides it"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_pack_describes_itself_to_comfyuis_registry() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    about = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"PublisherId", "DisplayName"} <= set(about["tool"]["comfy"])
    requirements = (FOLDER / "requirements.txt").read_text(encoding="utf-8").split()
    assert about["project"]["dependencies"] == requirements
    assert (FOLDER / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.skipif("COMFYUI_CHECKOUT" not in os.environ, reason="COMFYUI_CHECKOUT names no folder with ComfyUI")
def test_pictures_are_comfyuis_own() -> None:
    command = [sys.executable, str(FOLDER / "try_in_comfyui.py"), os.environ["COMFYUI_CHECKOUT"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
