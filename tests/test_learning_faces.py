"""Learned plans from the command line and in pipelines of diffusers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve.denoisers import Denoiser
from diffusolve.noise import SD15
from tests.test_cli import run

pytestmark = pytest.mark.usefixtures("likely_samplers")

STEPS = ["--steps", "3", "--pairs", "48", "--teacher-steps", "64", "--minutes", "0.3", "--batch", "48"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "plan.json"
    drawn = out.with_name("plot.png")
    assert run("learn", "--model", "gaussian", *STEPS, "--out", out, "--plot", drawn) == 0
    assert drawn.is_file()
    return out


def test_the_program_writes_a_plan_that_says_where_it_comes_from(written: Path) -> None:
    plan = diffusolve.Plan.from_json(written.read_text())
    told = plan.extra["learned"]
    assert (plan.nfe, told["model"], told["guidance"], told["pairs"]) == (3, "gaussian", 1.0, 48)
    assert told["error"] < 0.8 * told["catalog"]["3"][1]
    assert {"date", "diffusolve", "noise_schedule", "teacher_steps", "seed"} <= told.keys()


def test_a_plan_is_compared_with_samplers_by_name(written: Path, tmp_path: Path) -> None:
    numbers, out = tmp_path / "numbers.json", tmp_path / "x.png"
    files = ("--out", out, "--error", tmp_path / "e.png", "--json", numbers)
    plan = ("--plan", written, "--model", "gaussian")
    assert run("compare", "DPM++ 2M Karras", "Euler Karras", *plan, "--num", "16", *files) == 0
    told = json.loads(numbers.read_text())
    errors = {one["name"]: one["columns"][0]["error"] for one in told["samplers"]}
    assert errors["plan.json"] < 0.8 * min(errors["DPM++ 2M Karras"], errors["Euler Karras"])
    # The exact denoiser of the digits has the same noise schedule and prediction, the emoji's flow has not.
    assert run("compare", "--plan", written, "--model", "emoji-flow", "--out", out) == 2
    assert run("compare", "--plan", written, "--model", "gaussian", "--steps", "4", "--out", out) == 2
    # Two files of one name are two rows.
    other = tmp_path / "other" / written.name
    other.parent.mkdir()
    other.write_text(written.read_text(encoding="utf-8"), encoding="utf-8")
    assert run("compare", "--plan", other, *plan, "--json", numbers, "--out", out) == 0
    assert {one["name"] for one in json.loads(numbers.read_text())["samplers"]} == {str(written), str(other)}


def test_samples_are_made_by_a_plan_in_a_file(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    assert run("sample", "--plan", written, "--model", "gaussian", "--num", "4", "--out", out) == 0
    assert "in 3 steps, 3 function evaluations" in capsys.readouterr().out
    assert out.is_file()
    for wrong, words in (
        (("--plan", written, "--sampler", "Euler", "--steps", "3"), "leave --sampler and --steps out"),
        (("--plan", written, "--model", "emoji-flow"), "the network predicts flow"),
        (("--plan", tmp_path / "no.json"), "there is no file"),
        (("--sampler", "plan.json"), "--plan plan.json"),
        (("--sampler", "DPM adaptive", "--steps", "3"), "leave steps out"),
    ):
        assert run("sample", *wrong, "--num", "4", "--out", out) == 2
        assert words in capsys.readouterr().err


def test_what_cannot_be_written_or_learned_is_said_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for arguments, words in (
        (["--out", tmp_path / "no" / "plan.json"], "there is no folder"),
        (["--out", tmp_path / "p.json", "--model", "digitz"], "did you mean 'digits'"),
        (["--out", tmp_path / "p.json", "--prompts", empty], "has no prompts"),
        (["--out", tmp_path / "p.json", "--prompts", tmp_path / "none.txt"], "there is no file"),
        (["--out", tmp_path / "p.json", "--start", tmp_path / "none.json"], "there is no file"),
        (["--out", tmp_path / "p.json", "--start", empty], "empty.txt: not a plan"),
        (["--out", tmp_path / "p.json", "--method", "guess"], "unknown method"),
        (["--out", tmp_path / "p.json", "--pairs", "3"], "15 weights"),
    ):
        assert run("learn", *arguments) == 2
        assert words in capsys.readouterr().err.replace("\n", " ")


def test_a_plan_runs_to_the_same_bits_in_a_fresh_process(written: Path) -> None:
    script = (
        "import sys, numpy, diffusolve\n"
        "plan = diffusolve.Plan.from_json(open(sys.argv[1]).read())\n"
        "x = plan.start.sigma * numpy.random.default_rng(0).standard_normal((2, 3))\n"
        "made = diffusolve.sample(lambda x, t: numpy.tanh(x), x, plan)\n"
        "print(made.tobytes().hex())"
    )
    done = [
        subprocess.run([sys.executable, "-c", script, str(written)], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert done[0] == done[1]


def test_a_plan_module_walks_a_learned_plan(written: Path) -> None:
    plan = diffusolve.Plan.from_json(written.read_text())
    x = plan.start.sigma * torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    network = Denoiser(lambda x, t: torch.tanh(x), "sample", SD15)
    module = diffusolve.PlanModule(plan)
    sample, state = x, module.begin(x)
    for index in module.indices:
        sample, state = module(network(module.model_input(sample, index), None), sample, state, index)
    torch.testing.assert_close(sample, diffusolve.sample(network, x, plan), rtol=1e-5, atol=1e-5)


# In pipelines


def plans(schedule: Any, predicts: str) -> list[diffusolve.Plan]:
    return [diffusolve.sampler("Euler Karras").plan(schedule, predicts, steps) for steps in (4, 6)]


def test_stable_diffusion_takes_a_plan_scheduler_and_keeps_it_when_saved(tmp_path: Path) -> None:
    pipelines = pytest.importorskip("tests.schedulers.test_pipelines")
    config = {key: value for key, value in pipelines.SD.items() if key != "clip_sample"}
    own = diffusolve.EulerDiscreteScheduler(**config, use_karras_sigmas=True)
    scheduler = diffusolve.PlanScheduler.for_scheduler(plans(own.noise_schedule, "epsilon"), own)
    made, expected = pipelines.text_to_image(scheduler), pipelines.text_to_image(own)
    assert float((made - expected).abs().max()) < 2 / 255
    scheduler.save_pretrained(tmp_path)
    again = diffusolve.PlanScheduler.from_pretrained(tmp_path)
    assert dict(again.plans) == dict(scheduler.plans)
    assert torch.equal(pipelines.text_to_image(again), made)
    whole = pipelines.pipeline("StableDiffusionPipeline", scheduler)
    assert isinstance(whole.scheduler, diffusolve.PlanScheduler)


FRESH = """
import sys, diffusolve
from tests.schedulers.test_pipelines import SIZE, pipeline, prompt
from tests.schedulers.tiny_pipelines import PIPELINES
folder, = sys.argv[1:]
stable, flow = (diffusolve.PlanScheduler.from_pretrained(f"{folder}/{name}") for name in ("sd", "flux"))
made = pipeline("StableDiffusionPipeline", stable)(**prompt(), height=SIZE, width=SIZE, num_inference_steps=2).images
print(made.numpy().tobytes().hex(), PIPELINES["Flux"](flow, 2).numpy().tobytes().hex())
"""


def test_plans_learned_for_pipelines_make_the_same_bits_in_a_fresh_process(tmp_path: Path) -> None:
    pipelines = pytest.importorskip("tests.schedulers.test_pipelines")
    flux = pytest.importorskip("tests.schedulers.tiny_pipelines").PIPELINES["Flux"]
    little: dict[str, Any] = {"pairs": 4, "teacher_steps": 16, "method": "fit", "levels": "path", "minutes": 0.01}

    own = diffusolve.EulerDiscreteScheduler(**{k: v for k, v in pipelines.SD.items() if k != "clip_sample"})
    parts, told = pipelines.components(), pipelines.prompt()
    network = Denoiser(lambda x, t, c: parts["unet"](x, t, encoder_hidden_states=c).sample, "epsilon", SD15)
    guided = diffusolve.learning.Guided(network, told["negative_prompt_embeds"], told["guidance_scale"])
    rows = torch.cat([told["prompt_embeds"], -told["prompt_embeds"]])
    both = {**little, "method": None, "iterations": 2, "pairs": 8, "conditions": (rows[:1],), "held_out": (rows[1:],)}
    plan, report = diffusolve.learn_with_report(guided, torch.zeros(8, 4, 4, 4), 2, **both)
    assert (plan.nfe, plan.prediction) == (2, "epsilon")
    assert report.error <= 1.05 * report.start_error
    diffusolve.PlanScheduler.for_scheduler([plan], own).save_pretrained(tmp_path / "sd")

    given: dict[str, Any] = {}
    transformer = flux.built.transformer
    seen = transformer.register_forward_pre_hook(lambda _, args, kwargs: given.update(kwargs), with_kwargs=True)
    flux(diffusolve.FlowMatchEulerDiscreteScheduler(), 2)
    seen.remove()

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = transformer(**{**given, "hidden_states": x, "timestep": t / 1000, "return_dict": False})[
            0
        ]
        return output

    plan = diffusolve.learn(Denoiser(velocity, "flow", "flux"), torch.zeros_like(given["hidden_states"]), 2, **little)
    flow = diffusolve.FlowMatchEulerDiscreteScheduler()
    diffusolve.PlanScheduler.for_scheduler([plan], flow).save_pretrained(tmp_path / "flux")

    command = [sys.executable, "-c", FRESH, str(tmp_path)]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout
    loaded = [diffusolve.PlanScheduler.from_pretrained(tmp_path / name) for name in ("sd", "flux")]
    pipe = pipelines.pipeline("StableDiffusionPipeline", loaded[0])
    made = pipe(**told, height=pipelines.SIZE, width=pipelines.SIZE, num_inference_steps=2).images
    assert fresh.split() == [image.numpy().tobytes().hex() for image in (made, flux(loaded[1], 2))]
    assert torch.isfinite(made).all()


def test_flow_pipelines_take_a_plan_scheduler() -> None:
    tiny = pytest.importorskip("tests.schedulers.tiny_pipelines").PIPELINES["Flux"]
    own = diffusolve.FlowMatchEulerDiscreteScheduler()
    plan = diffusolve.sampler("DPM++ 2M Uniform").plan(own.noise_schedule, "flow", 4)
    scheduler = diffusolve.PlanScheduler.for_scheduler([plan], own)
    made = tiny(scheduler, 4)
    assert torch.isfinite(made).all()
    assert torch.equal(made, tiny(scheduler, 4))


def test_plans_are_for_flow_matching_in_the_words_of_other_classes_too() -> None:
    plan = diffusolve.sampler("DPM++ 2M Uniform").plan("flux", "flow", 4)
    for own in (
        diffusolve.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        diffusolve.EulerDiscreteScheduler.from_config(diffusolve.FlowMatchEulerDiscreteScheduler(shift=3.0).config),
    ):
        assert list(diffusolve.PlanScheduler.for_scheduler([plan], own).plans) == [4]
        with pytest.raises(ValueError, match="another noise schedule"):
            diffusolve.PlanScheduler.for_scheduler(plans(SD15, "epsilon"), own)


def test_other_classes_refuse_the_folder_of_a_plan_scheduler(tmp_path: Path) -> None:
    own = diffusolve.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    diffusolve.PlanScheduler.for_scheduler(plans(SD15, "epsilon"), own).save_pretrained(tmp_path)
    for cls in (diffusolve.DDIMScheduler, diffusolve.UniPCMultistepScheduler):
        with pytest.raises(ValueError, match=r"PlanScheduler.*EulerDiscreteScheduler\.from_config\(config\["):
            cls.from_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert diffusolve.EulerDiscreteScheduler.from_config(saved["trained_with"]).config["beta_end"] == 0.012
    assert list(diffusolve.PlanScheduler.from_pretrained(tmp_path).plans) == [4, 6]


def test_sampling_refuses_a_plan_for_another_noise_schedule() -> None:
    network = Denoiser(lambda x, t: torch.tanh(x), "sample", SD15)
    x = torch.zeros(1, 2)
    for schedule in ("ddpm", "edm", "flux"):
        plan = diffusolve.sampler("Euler Karras").plan(schedule, "sample", 4)
        with pytest.raises(ValueError, match="the plan was made for another noise schedule"):
            diffusolve.sample(network, x, plan)
    plan = diffusolve.sampler("Euler Karras").plan(SD15, "sample", 4)
    assert torch.isfinite(diffusolve.sample(network, x, plan)).all()


def test_unconditional_pipelines_hand_a_generator_to_every_step() -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        8, 1, 1, block_out_channels=(8,), norm_num_groups=4, down_block_types=["DownBlock2D"],
        up_block_types=["UpBlock2D"], layers_per_block=1,
    )  # fmt: skip
    own = diffusolve.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler = diffusolve.PlanScheduler.for_scheduler(plans(own.noise_schedule, "epsilon"), own)
    pipe = diffusers.DDPMPipeline(unet, scheduler)
    assert pipe(num_inference_steps=4, output_type="np").images.shape == (1, 8, 8, 1)


def test_what_a_plan_scheduler_cannot_do_is_an_error_that_says_what_it_can() -> None:
    own = diffusolve.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler = diffusolve.PlanScheduler.for_scheduler(plans(own.noise_schedule, "epsilon"), own)
    with pytest.raises(ValueError, match="is 5: there are plans for 4, 6"):
        scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(torch.zeros(1), 1, torch.zeros(1))
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="not the one that comes next"):
        scheduler.step(torch.zeros(1, 2), scheduler.timesteps[2], torch.zeros(1, 2))
    with pytest.raises(ValueError, match="walked from its beginning"):
        scheduler.set_begin_index(2)
    for schedule, predicts, words in (
        ("edm", "epsilon", "another noise schedule"),
        ("ddpm", "epsilon", "another noise schedule"),
        (SD15, "v_prediction", "is for v_prediction prediction"),
    ):
        with pytest.raises(ValueError, match=words):
            diffusolve.PlanScheduler.for_scheduler(plans(schedule, predicts), own)
    with pytest.raises(ValueError, match="two plans take 4"):
        diffusolve.PlanScheduler.for_scheduler(plans(SD15, "epsilon")[:1] * 2, own)
    longer = diffusolve.PlanScheduler.for_scheduler(plans(SD15, "epsilon")[1:], scheduler)
    assert list(longer.plans) == [6]
    with pytest.raises(ValueError, match="another noise schedule"):
        diffusolve.PlanScheduler.for_scheduler(plans("ddpm", "epsilon"), scheduler)
    plan = plans(SD15, "epsilon")[0]
    later = diffusolve.sampler("Euler", "Leading").plan(SD15, "epsilon", 4)
    for given, kind, words in (
        (plan, TypeError, r"expected a list of them, \[plan\] for one"),
        (["plan.json"], TypeError, "Plan.from_json makes one"),
        ([later], ValueError, "or begins in the middle"),
    ):
        with pytest.raises(kind, match=words):
            diffusolve.PlanScheduler.for_scheduler(given, own)
    with pytest.raises(TypeError, match=r"PlanScheduler\.for_scheduler"):
        diffusolve.PlanScheduler([plan])  # type: ignore[list-item]


def test_a_batch_run_and_the_example_programs_walk_a_learned_plan() -> None:
    from benchmarks.learning import FOLDER
    from examples import run_plan

    paths = sorted(FOLDER.glob("*.json"))
    assert paths
    for path in paths:
        plan = diffusolve.Plan.from_json(path.read_text(encoding="utf-8"))
        x = plan.start.sigma * torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = diffusolve.sample(lambda x, t: torch.tanh(x), x, plan)
        batch = diffusolve.BatchRun()
        rows = [batch.join(plan, x[i : i + 1]) for i in range(2)]
        for _ in range(plan.nfe):
            (inputs,) = batch.inputs()
            batch.advance(inputs, torch.tanh(inputs.x))
        torch.testing.assert_close(torch.cat([row.result for row in rows]), expected, rtol=1e-9, atol=1e-9)
        document = json.loads(path.read_text(encoding="utf-8"))
        run_plan.check(document)
        made = run_plan.run(document, lambda x, stage: (x_tanh := np.tanh(x), x_tanh), x.numpy(), lambda: None)
        np.testing.assert_allclose(made, expected.numpy(), rtol=1e-9, atol=1e-9)
        told = plan.extra["learned"]
        assert told["way"] == "kept start" or told["error"] < told["catalog"][str(told["steps"])][1], path.stem
