"""Pipelines of diffusers with small random weights, without what makes embeddings and pictures of latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers", reason="these are pipelines of diffusers, which is not installed")

__all__ = ["PIPELINES", "Tiny"]


@dataclass(eq=False)
class Tiny:
    """A pipeline, and how it is called.

    Attributes:
        pipeline: its class.
        make: its parts but for the scheduler.
        own: the schedulers that such models come with, (class, configuration), the usual one first.
        call: the arguments of a call, but for the number of steps and the generator.
    """

    pipeline: str
    make: Callable[[], dict[str, Any]]
    own: tuple[tuple[str, Mapping[str, Any]], ...]
    call: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, scheduler: Any, steps: int) -> Tensor:
        """What the pipeline makes of the same noise with `scheduler` in `steps` steps."""
        self.built.scheduler = scheduler
        generator = torch.Generator().manual_seed(1)
        made = self.built(**self.call, num_inference_steps=steps, generator=generator)
        first: Tensor = next(iter(made.values()))
        return first

    @cached_property
    def built(self) -> Any:
        """The pipeline, made once."""
        torch.manual_seed(0)
        parts = {name: part.eval() if isinstance(part, torch.nn.Module) else part for name, part in self.make().items()}
        pipe = getattr(diffusers, self.pipeline)(**parts, scheduler=self.own_scheduler(diffusers))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def own_scheduler(self, library: Any, which: int = 0) -> Any:
        """The scheduler that such a model comes with, of `library`."""
        name, config = self.own[which]
        return getattr(library, name)(**config)


def embeds(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def without(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def picture(size: int) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(7))


def smooth(network: Any) -> Any:
    """`network` with weights of half the size, and without what changes from one training timestep to the next.

    The sines that a time becomes have periods down to 6 training timesteps, over which random weights let a network
    change as much as over the whole run. No sampler's steps resolve that; trained networks are not like it.
    """
    from diffusers.models.embeddings import TimestepEmbedding

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
        for embedding in (each for each in network.modules() if isinstance(each, TimestepEmbedding)):
            half = embedding.linear_1.in_features // 2
            frequency = 10000.0 ** (-torch.arange(half) / half)
            embedding.linear_1.weight.mul_((1.0 / (1.0 + (100.0 * frequency) ** 2)).repeat(2))
    return network


def ltx() -> Any:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    return smooth(transformer)


def ltx_vae() -> Any:
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )


def cascade(**more: Any) -> Any:
    return diffusers.StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=8,
        block_out_channels=(16, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_text_in_channels=16,
        clip_text_pooled_in_channels=16,
        switch_level=(False,),
        **more,
    )


def wuerstchen_prior() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_prior import WuerstchenPrior

    return WuerstchenPrior(c_in=4, c=16, c_cond=16, c_r=8, depth=1, nhead=2)


class Words:
    """A tokenizer with one number for every word."""

    model_max_length = 8

    def __call__(self, prompts: str | list[str], **options: Any) -> Any:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        ids = torch.tensor([([1 + len(word) % 7 for word in prompt.split()] + [0] * 8)[:8] for prompt in prompts])
        return type("Tokens", (), {"input_ids": ids, "attention_mask": (ids > 0).long()})


def prior() -> Any:
    made = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=16, num_embeddings=8
    )
    made.clip_std.data.fill_(1.0)  # which is 0 before training, as all of the results would be
    return made


def clip_text() -> dict[str, Any]:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = CLIPTextConfig(
        projection_dim=16,
        vocab_size=8,
        max_position_embeddings=8,
        eos_token_id=0,
        bos_token_id=1,
        pad_token_id=0,
        **sizes,
    )
    return {"text_encoder": CLIPTextModelWithProjection(text), "tokenizer": Words()}


def clip_vision(size: int = 32, processor: str = "feature_extractor") -> dict[str, Any]:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        projection_dim=size,
        image_size=32,
        patch_size=16,
    )
    return {
        "image_encoder": CLIPVisionModelWithProjection(vision),
        processor: CLIPImageProcessorPil(crop_size={"height": 32, "width": 32}, size={"shortest_edge": 32}),
    }


TEXT = ("tokenizer", "text_encoder")
EULER = "FlowMatchEulerDiscreteScheduler"

COG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 1.0,
}
LTX = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "shift_terminal": 0.1,
}
SVD = {
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
PIPELINES = {
    "Flux": Tiny(
        "FluxPipeline",
        lambda: {
            **without("vae", *TEXT, "tokenizer_2", "text_encoder_2"),
            "transformer": smooth(
                diffusers.FluxTransformer2DModel(
                    patch_size=1,
                    in_channels=4,
                    num_layers=1,
                    num_single_layers=1,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=32,
                    pooled_projection_dim=32,
                    axes_dims_rope=(4, 4, 8),
                )
            ),
        },
        ((EULER, {"use_dynamic_shifting": True, "shift": 3.0}),),
        {
            "prompt_embeds": embeds(1, 6, 32),
            "pooled_prompt_embeds": embeds(1, 32),
            "guidance_scale": 1.0,
            "height": 64,
            "width": 64,
            "output_type": "latent",
        },
    ),
    "Stable Diffusion 3": Tiny(
        "StableDiffusion3Pipeline",
        lambda: {
            **without("vae", *TEXT, "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3"),
            "transformer": smooth(
                diffusers.SD3Transformer2DModel(
                    sample_size=8,
                    patch_size=1,
                    in_channels=4,
                    out_channels=4,
                    num_layers=1,
                    attention_head_dim=8,
                    num_attention_heads=4,
                    caption_projection_dim=32,
                    joint_attention_dim=32,
                    pooled_projection_dim=64,
                )
            ),
        },
        ((EULER, {"shift": 3.0}),),
        {
            "prompt_embeds": embeds(1, 6, 32),
            "pooled_prompt_embeds": embeds(1, 64),
            "guidance_scale": 1.0,
            "height": 64,
            "width": 64,
            "output_type": "latent",
        },
    ),
    "Wan": Tiny(
        "WanPipeline",
        lambda: {
            **without("vae", *TEXT),
            "transformer": smooth(
                diffusers.WanTransformer3DModel(
                    num_attention_heads=2,
                    attention_head_dim=12,
                    in_channels=4,
                    out_channels=4,
                    text_dim=32,
                    freq_dim=32,
                    ffn_dim=32,
                    num_layers=1,
                    rope_max_seq_len=32,
                )
            ),
        },
        (
            (
                "UniPCMultistepScheduler",
                {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
            ),
            (EULER, {"shift": 3.0}),
        ),
        {
            "prompt_embeds": embeds(1, 6, 32),
            "guidance_scale": 1.0,
            "height": 64,
            "width": 64,
            "num_frames": 5,
            "output_type": "latent",
        },
    ),
    "Qwen-Image": Tiny(
        "QwenImagePipeline",
        lambda: {
            **without("vae", *TEXT),
            "transformer": smooth(
                diffusers.QwenImageTransformer2DModel(
                    in_channels=16,
                    out_channels=4,
                    num_layers=1,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=16,
                    axes_dims_rope=(8, 4, 4),
                )
            ),
        },
        (
            (
                EULER,
                {
                    "use_dynamic_shifting": True,
                    "base_shift": 0.5,
                    "max_shift": 0.9,
                    "max_image_seq_len": 8192,
                    "shift_terminal": 0.02,
                },
            ),
        ),
        {
            "prompt_embeds": embeds(1, 6, 16),
            "prompt_embeds_mask": torch.ones(1, 6, dtype=torch.long),
            "true_cfg_scale": 1.0,
            "height": 64,
            "width": 64,
            "output_type": "latent",
        },
    ),
    "LTX": Tiny(
        "LTXPipeline",
        lambda: {**without("vae", *TEXT), "transformer": ltx()},
        ((EULER, LTX),),
        {
            "prompt_embeds": embeds(1, 6, 16),
            "prompt_attention_mask": torch.ones(1, 6, dtype=torch.long),
            "guidance_scale": 1.0,
            "height": 64,
            "width": 64,
            "num_frames": 9,
            "output_type": "latent",
        },
    ),
    "Sana": Tiny(
        "SanaPipeline",
        lambda: {
            **without("vae", *TEXT),
            "transformer": smooth(
                diffusers.SanaTransformer2DModel(
                    in_channels=4,
                    out_channels=4,
                    num_layers=1,
                    num_attention_heads=2,
                    attention_head_dim=4,
                    num_cross_attention_heads=2,
                    cross_attention_head_dim=4,
                    cross_attention_dim=8,
                    caption_channels=8,
                    sample_size=8,
                )
            ),
        },
        (
            (
                "DPMSolverMultistepScheduler",
                {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
            ),
            (EULER, {"shift": 3.0}),
        ),
        {
            "prompt_embeds": embeds(1, 6, 8),
            "prompt_attention_mask": torch.ones(1, 6, dtype=torch.long),
            "guidance_scale": 1.0,
            "height": 256,
            "width": 256,
            "use_resolution_binning": False,
            "output_type": "latent",
        },
    ),
    "LTX from a picture": Tiny(
        "LTXImageToVideoPipeline",
        lambda: {**without(*TEXT), "vae": ltx_vae(), "transformer": ltx()},
        ((EULER, LTX),),
        {
            "image": picture(64),
            "prompt_embeds": embeds(1, 6, 16),
            "prompt_attention_mask": torch.ones(1, 6, dtype=torch.long),
            "guidance_scale": 1.0,
            "height": 64,
            "width": 64,
            "num_frames": 9,
            "output_type": "latent",
        },
    ),
    "LTX with conditions": Tiny(
        "LTXConditionPipeline",
        lambda: {**without(*TEXT), "vae": ltx_vae(), "transformer": ltx()},
        ((EULER, {}),),
        {
            "image": picture(64),
            "prompt_embeds": embeds(1, 6, 16),
            "prompt_attention_mask": torch.ones(1, 6, dtype=torch.long),
            "guidance_scale": 1.0,
            "height": 64,
            "width": 64,
            "num_frames": 9,
            "output_type": "latent",
        },
    ),
    "CogVideoX": Tiny(
        "CogVideoXPipeline",
        lambda: {
            **without("vae", *TEXT),
            "transformer": diffusers.CogVideoXTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=8,
                in_channels=4,
                out_channels=4,
                time_embed_dim=4,
                text_embed_dim=8,
                num_layers=1,
                sample_width=4,
                sample_height=4,
                sample_frames=9,
                max_text_seq_length=6,
            ),
        },
        (
            ("CogVideoXDDIMScheduler", COG),
            ("CogVideoXDPMScheduler", COG),
            ("DPMSolverMultistepScheduler", {}),
        ),
        {
            "prompt_embeds": embeds(1, 6, 8),
            "negative_prompt_embeds": embeds(1, 6, 8, seed=4),
            "guidance_scale": 3.0,
            "height": 32,
            "width": 32,
            "num_frames": 9,
            "output_type": "latent",
        },
    ),
    "Kandinsky 2.2": Tiny(
        "KandinskyV22Pipeline",
        lambda: {
            "unet": diffusers.UNet2DConditionModel(
                in_channels=4,
                out_channels=8,
                addition_embed_type="image",
                down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                block_out_channels=(8, 16),
                layers_per_block=1,
                encoder_hid_dim=16,
                encoder_hid_dim_type="image_proj",
                cross_attention_dim=16,
                attention_head_dim=4,
                norm_num_groups=4,
                resnet_time_scale_shift="scale_shift",
            ),
            "movq": diffusers.VQModel(
                latent_channels=4,
                block_out_channels=(32,),
                num_vq_embeddings=8,
                vq_embed_dim=4,
                norm_type="spatial",
            ),
        },
        (
            (
                "DDPMScheduler",
                {"variance_type": "learned_range", "beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012},
            ),
            ("UnCLIPScheduler", {"variance_type": "learned_range"}),
        ),
        {
            "image_embeds": embeds(1, 16),
            "negative_image_embeds": embeds(1, 16, seed=4),
            "guidance_scale": 3.0,
            "height": 64,
            "width": 64,
            "output_type": "latent",
        },
    ),
    "Kandinsky 2.2's prior": Tiny(
        "KandinskyV22PriorPipeline",
        lambda: {
            **clip_text(),
            **clip_vision(16, "image_processor"),
            "prior": prior(),
        },
        (
            (
                "UnCLIPScheduler",
                {"prediction_type": "sample", "variance_type": "fixed_small_log", "clip_sample_range": 10.0},
            ),
        ),
        {"prompt": "a fox", "guidance_scale": 3.0, "output_type": "pt"},
    ),
    "Stable Cascade's prior": Tiny(
        "StableCascadePriorPipeline",
        lambda: {**clip_text(), "prior": cascade(conditioning_dim=16, clip_image_in_channels=16)},
        (("DDPMWuerstchenScheduler", {}),),
        {
            "prompt": "a fox",
            "guidance_scale": 3.0,
            "height": 128,
            "width": 128,
            "output_type": "pt",
        },
    ),
    "Wuerstchen's prior": Tiny(
        "WuerstchenPriorPipeline",
        lambda: {**clip_text(), "prior": wuerstchen_prior()},
        (("DDPMWuerstchenScheduler", {}),),
        {"prompt": "a fox", "guidance_scale": 3.0, "height": 128, "width": 128, "output_type": "pt"},
    ),
    "LCM": Tiny(
        "LatentConsistencyModelPipeline",
        lambda: {
            **without(*TEXT, "vae", "safety_checker", "feature_extractor"),
            "requires_safety_checker": False,
            "unet": diffusers.UNet2DConditionModel(
                sample_size=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                cross_attention_dim=16,
                attention_head_dim=4,
                time_cond_proj_dim=8,
            ),
        },
        (("LCMScheduler", {}),),
        {"prompt_embeds": embeds(1, 6, 16), "output_type": "latent"},
    ),
    "Stable Video Diffusion": Tiny(
        "StableVideoDiffusionPipeline",
        lambda: {
            "unet": diffusers.UNetSpatioTemporalConditionModel(
                sample_size=8,
                down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                block_out_channels=(32, 32),
                layers_per_block=1,
                cross_attention_dim=32,
                num_attention_heads=4,
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=24,
            ),
            "vae": diffusers.AutoencoderKLTemporalDecoder(block_out_channels=(32,)),
            **clip_vision(),
        },
        (("EulerDiscreteScheduler", SVD),),
        {"image": picture(32), "height": 32, "width": 32, "num_frames": 2, "output_type": "latent"},
    ),
}
