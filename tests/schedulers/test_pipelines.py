"""Real pipelines of diffusers with small random weights make the same image with our scheduler in place of theirs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusolve
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers
from diffusolve.schedulers.import_paths import OURS_ALONE, in_both
from tests.tables import for_each

diffusers = pytest.importorskip("diffusers")

CLASSES = [kind.name for kind in KarrasDiffusionSchedulers]
SD = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
}
SIZE = 16


@lru_cache(maxsize=1)
def components() -> dict[str, Any]:
    """The parts of a Stable Diffusion pipeline without its text encoder: embeddings are given."""
    torch.manual_seed(0)
    blocks = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    }
    unet = diffusers.UNet2DConditionModel(SIZE // 2, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **blocks)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    controlnet = diffusers.ControlNetModel(conditioning_embedding_out_channels=(4, 8), **blocks)
    with torch.no_grad():
        for parameter in controlnet.parameters():  # the zero convolutions would leave the image as it is
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return {"unet": unet.eval(), "vae": vae.eval(), "controlnet": controlnet.eval()}


def pipeline(kind: str, scheduler: Any, **more: Any) -> Any:
    parts = components()
    made = getattr(diffusers, kind)(
        vae=parts["vae"],
        text_encoder=None,
        tokenizer=None,
        unet=parts["unet"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )
    made.set_progress_bar_config(disable=True)
    return made


def prompt() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {
        "prompt_embeds": torch.randn(1, 8, 16, generator=generator),
        "negative_prompt_embeds": torch.randn(1, 8, 16, generator=generator),
        "guidance_scale": 3.0,
        "output_type": "pt",
        "generator": torch.Generator().manual_seed(5),
    }


def picture() -> torch.Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


def text_to_image(scheduler: Any) -> torch.Tensor:
    made = pipeline("StableDiffusionPipeline", scheduler)
    return made(**prompt(), height=SIZE, width=SIZE, num_inference_steps=6).images


def image_to_image(scheduler: Any) -> torch.Tensor:
    made = pipeline("StableDiffusionImg2ImgPipeline", scheduler)
    return made(**prompt(), image=picture(), strength=0.6, num_inference_steps=10).images


def inpainting(scheduler: Any) -> torch.Tensor:
    made = pipeline("StableDiffusionInpaintPipeline", scheduler)
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    return made(
        **prompt(), image=picture(), mask_image=mask, height=SIZE, width=SIZE, strength=0.8, num_inference_steps=8
    ).images


def controlled(scheduler: Any) -> torch.Tensor:
    made = pipeline("StableDiffusionControlNetPipeline", scheduler, controlnet=components()["controlnet"])
    return made(**prompt(), image=picture(), height=SIZE, width=SIZE, num_inference_steps=6).images


def both(name: str, make: Callable[[Any], torch.Tensor], **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The image with our class and with theirs, both from the configuration of a PNDM scheduler."""
    start = diffusers.PNDMScheduler(**{k: v for k, v in SD.items() if k != "clip_sample"}, skip_prk_steps=True)
    config = {**start.config, "clip_sample": False, **options}
    if name == "DPMSolverSDEScheduler":
        config["noise_sampler_seed"] = 11
    ours, theirs = (make(getattr(library, name).from_config(config)) for library in (diffusolve, diffusers))
    return ours, theirs


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.isfinite(theirs).all()
    assert float(theirs.std()) > 0.01
    assert float((ours - theirs).abs().max()) <= 1 / 255


@for_each("name", CLASSES)
@pytest.mark.parametrize("make", [text_to_image, image_to_image, inpainting, controlled])
def test_stable_diffusion_makes_the_same_image(name: str, make: Callable[[Any], torch.Tensor]) -> None:
    assert_same(*both(name, make))


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_the_same_with_karras_sigmas(name: str) -> None:
    assert_same(*both(name, text_to_image, use_karras_sigmas=True))


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_unconditional_pipelines_make_the_same_image(kind: str) -> None:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = diffusers.UNet2DModel(8, 3, 3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    images = []
    for library in (diffusolve, diffusers):
        made = getattr(diffusers, f"{kind}Pipeline")(unet.eval(), getattr(library, f"{kind}Scheduler")())
        made.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(2)
        images.append(made(2, generator=generator, num_inference_steps=7, output_type="np").images)
    assert_same(*map(torch.from_numpy, images))


def test_a_pipeline_saved_with_our_scheduler_is_loaded_by_others_and_with_ours_by_one_line(tmp_path: Path) -> None:
    scheduler = diffusolve.DPMSolverMultistepScheduler(**{k: v for k, v in SD.items() if k != "clip_sample"})
    made = pipeline("StableDiffusionPipeline", scheduler)
    made.save_pretrained(tmp_path)
    absent = {"text_encoder": None, "tokenizer": None}
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DPMSolverMultistepScheduler"]
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, **absent).scheduler
    assert type(theirs) is diffusers.DPMSolverMultistepScheduler
    ours = diffusolve.DPMSolverMultistepScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    back = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, scheduler=ours, **absent)
    assert back.scheduler is ours
    assert all(back.scheduler.config[key] == value for key, value in scheduler.config.items() if key[0] != "_")
    back.set_progress_bar_config(disable=True)
    images = [p(**prompt(), height=SIZE, width=SIZE, num_inference_steps=3).images for p in (made, back)]
    assert torch.equal(*images)


def test_our_classes_are_those_of_diffusers_to_isinstance_and_inherit_nothing_of_them() -> None:
    wrong = []
    for name, (_, there) in in_both().items():
        theirs = getattr(importlib.import_module(there), name, None)
        ours = getattr(diffusolve, name)
        if theirs is None or not issubclass(ours, theirs):
            wrong.append(f"{name} is not {there}.{name}")
            continue
        own = {key for base in ours.__mro__ if base.__module__.startswith("diffusolve") for key in vars(base)}
        wrong += [f"{name} inherits {key}" for key in vars(theirs) if key not in own and key != "__slotnames__"]
    assert not wrong, "\n".join(wrong)
    assert not isinstance(diffusolve.DDIMScheduler(), diffusers.PNDMScheduler)


def test_classes_that_diffusers_does_not_have_are_those_listed() -> None:
    internal = {"ScoreSdeVpScheduler", "ConsistencyDecoderScheduler"}  # diffusers has them, and does not export them
    alone = {name for name in diffusolve.__all__ if name.endswith("Scheduler") and not hasattr(diffusers, name)}
    assert alone == {*OURS_ALONE, *internal}


def test_offload_hooks_are_left_alone() -> None:
    pytest.importorskip("accelerate")
    made = pipeline("StableDiffusionPipeline", diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"))
    hooks = [getattr(module, "_hf_hook", None) for module in (made.unet, made.vae)]
    made.scheduler = diffusolve.EulerDiscreteScheduler.from_config(made.scheduler.config)
    assert [getattr(module, "_hf_hook", None) for module in (made.unet, made.vae)] == hooks
    assert made.components["scheduler"] is made.scheduler
