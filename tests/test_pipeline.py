"""Pipelines of diffusers as models, with small random weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler, UNet2DModel
from diffusers.utils import logging

import diffusolve
from diffusolve import bulk, start
from diffusolve.catalog import sampler
from diffusolve.cli.main import main
from diffusolve.denoisers.pipeline import load_pipeline
from diffusolve.noise import FlowMatching, VarianceExploding, VariancePreserving
from diffusolve.noise.from_config import noise_schedule_from_config
from diffusolve.sampling import sample


def unet(**options: object) -> UNet2DModel:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(8, 3, 3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional pipeline, saved."""
    path = tmp_path_factory.mktemp("pipeline")
    DDPMPipeline(
        unet(), DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    ).save_pretrained(path)
    return path


def test_a_pipelines_folder_samples_as_the_pipelines_own_loop_does(folder: Path) -> None:
    loaded = load_pipeline(str(folder), 2)
    assert loaded.network.noise_schedule == VariancePreserving(beta_schedule="squaredcos_cap_v2")
    reference = DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False, timestep_spacing="trailing")
    reference.set_timesteps(10)
    network = unet().eval()
    x = torch.randn(2, 3, 8, 8)
    recipe = sampler("DDIM Trailing")
    ours = sample(loaded.network, x * recipe.grid(loaded.network.noise_schedule, 10)[0].sigma, recipe, steps=10)
    theirs = x * recipe.grid(loaded.network.noise_schedule, 10)[0].sigma
    with torch.no_grad():
        for timestep in reference.timesteps:
            theirs = reference.step(network(theirs, timestep).sample, timestep, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_program_samples_from_a_pipeline_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sample", "--model", str(folder), "--num", "2", "--steps", "3", "--out", str(tmp_path / "x.png")])
    assert not stop.value.code
    assert (tmp_path / "x.png").is_file()


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
        load_pipeline(str(tmp_path), 1)


@pytest.mark.parametrize("options", [{"prompt": "a cat"}, {"guidance": 2.0}, {"label": 3}])
def test_options_that_a_pipeline_has_no_use_for_are_refused(folder: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no prompt and no guidance|not conditioned on a class"):
        load_pipeline(str(folder), 1, **options)


def test_a_class_conditional_network_gets_its_class(tmp_path: Path) -> None:
    DDPMPipeline(unet(num_class_embeds=5), DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="from 0 to 4"):
        load_pipeline(str(tmp_path), 1)
    x, timestep = torch.randn(1, 3, 8, 8), torch.tensor([10])
    with torch.no_grad():
        first, second = (load_pipeline(str(tmp_path), 1, label=label).network(x, timestep) for label in (0, 1))
    assert not torch.equal(first, second)


def test_a_pipeline_whose_class_is_unknown_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "own")
    index = tmp_path / "own" / "model_index.json"
    named = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": "OwnPipeline"}
    index.write_text(json.dumps(named), encoding="utf-8")
    assert load_pipeline(str(index.parent), 1).shape == (3, 8, 8), "its network and scheduler are diffusers' own"
    index.write_text(json.dumps(named | {"unet": ["no_such_module", "OwnNetwork"]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"OwnNetwork of the module no_such_module, which cannot be imported"):
        load_pipeline(str(index.parent), 1)
    index.write_text(json.dumps(named | {"vae": ["diffusers", "AutoencoderKL"]}), encoding="utf-8")
    with pytest.raises(ValueError, match="OwnPipeline, which diffusers does not have, with scheduler, unet, vae"):
        load_pipeline(str(index.parent), 1)


def test_in_a_log_no_progress_bar_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_pipeline(str(folder), 1)
    assert "Loading" not in capsys.readouterr().err
    assert logging.is_progress_bar_enabled(), "for whoever loads pipelines otherwise"


def test_without_diffusers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"diffusolve\[diffusers\]"):
        load_pipeline("organisation/name", 1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (EulerDiscreteScheduler().config, VariancePreserving()),
        ({"trained_betas": [0.1, 0.2], "beta_schedule": "linear"}, VariancePreserving(trained_betas=(0.1, 0.2))),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000},
            FlowMatching(shift=3.0),
        ),
        (
            diffusolve.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, num_train_timesteps=500
            ).config,
            FlowMatching(shift=5.0, num_train_timesteps=500),
        ),
        (
            diffusolve.EulerDiscreteScheduler.from_config(
                {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
            ).config,
            FlowMatching(shift=3.0),
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_max": 40.0},
            VarianceExploding(sigma_max=40.0, conditioning="edm"),
        ),
    ],
)
def test_a_schedulers_configuration_gives_its_noise_schedule(config: dict[str, object], expected: object) -> None:
    assert noise_schedule_from_config(config) == expected


def test_a_configuration_without_a_noise_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="beta_schedule"):
        noise_schedule_from_config({"_class_name": "VQDiffusionScheduler"})


@pytest.fixture(scope="module")
def text_to_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline with an alphabet for a vocabulary, saved."""
    transformers = pytest.importorskip("transformers")
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    path = tmp_path_factory.mktemp("text-to-image")
    words = [*"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=16)
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(words),
        eos_token_id=len(words) + 1,
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path / "pipeline")
    return path / "pipeline"


def test_a_text_to_image_pipeline_makes_what_the_pipeline_itself_makes(text_to_image: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(text_to_image)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 4, 8, 8)
    theirs = pipeline(
        "a cat", num_images_per_prompt=2, latents=latents, num_inference_steps=5, guidance_scale=3.0, output_type="pt"
    ).images

    loaded = load_pipeline(str(text_to_image), 2, prompt="a cat", guidance=3.0)
    with torch.no_grad():
        images = loaded.decode(sample(loaded.network, latents, sampler("DPM++ 2M Karras"), steps=5))
    ours = (images / 2 + 0.5).clamp(0, 1)
    assert float((ours - theirs).abs().max()) < 1 / 255


def test_a_text_to_image_pipeline_without_a_prompt_is_refused(text_to_image: Path) -> None:
    with pytest.raises(ValueError, match="give a prompt"):
        load_pipeline(str(text_to_image), 1)


def test_rows_of_a_pipeline_are_the_same_alone(text_to_image: Path, folder: Path, tmp_path: Path) -> None:
    prompts = ["a cat", "a dog", "a cat"]
    rows = [
        {"id": number, "seed": number, "prompt": prompt, "guidance": 2.0, "steps": 2, "sampler": "Euler a"}
        for number, prompt in enumerate(prompts)
    ]
    sizes = [None, "16x8", 16]  # pixels; the autoencoder has two for each place of a sample
    rows = [row | {"size": size} for row, size in zip(rows, sizes, strict=True)]
    summary = bulk.generate(rows, str(text_to_image), tmp_path / "texts", verify=3)
    assert (summary.made, summary.verified, summary.differing) == (3, 3, ())
    records = list(bulk.read(tmp_path / "texts"))
    assert [record.sample.shape for record in records] == [(4, 8, 8), (4, 8, 4), (4, 8, 8)]
    assert all(record.image is not None for record in records)
    loaded = load_pipeline(str(text_to_image), 1, prompt="a cat", guidance=2.0)
    recipe = sampler("Euler a")
    x = start(recipe.grid(loaded.network.noise_schedule, 2), (1, 4, 8, 8), 0)
    made = sample(loaded.network, x, recipe, steps=2, noise=0)[0]
    torch.testing.assert_close(torch.from_numpy(records[0].sample.copy()), made, rtol=1e-3, atol=1e-3)
    plain = [{"id": number, "seed": number, "steps": 2} for number in range(3)]
    assert bulk.generate(plain, str(folder), tmp_path / "plain", verify=3).differing == ()
    with pytest.raises(ValueError, match=r"prompt is None: the pipeline .* takes prompt"):
        bulk.generate(plain, str(text_to_image), tmp_path / "bad")
    with pytest.raises(ValueError, match="size is 7x7: expected multiples of 2"):
        bulk.generate([rows[0] | {"size": 7}], str(text_to_image), tmp_path / "bad")


@pytest.mark.usefixtures("likely_samplers")
def test_the_program_learns_a_plan_for_the_prompts_in_a_file(text_to_image: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "plan.json"
    prompts.write_text("a cat\na dog\n\na bird\na tree\n")
    arguments = ["--model", str(text_to_image), "--prompts", str(prompts), "--guidance", "2", "--out", str(out)]
    few = ["--steps", "2", "--pairs", "8", "--teacher-steps", "16", "--minutes", "0.1", "--batch", "8"]
    with pytest.raises(SystemExit) as stop:
        main(["learn", *arguments, *few])
    assert not stop.value.code
    told = json.loads(out.read_text())["learned"]
    assert (told["guidance"], told["prompts"], told["steps"]) == (2.0, 4, 2)
