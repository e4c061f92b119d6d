"""A real pipeline of flow matching, with small random weights, and our schedulers in it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

FLUX = {"use_dynamic_shifting": True, "shift": 3.0}


def flux(scheduler: Any) -> Any:
    """Flux, without what makes embeddings and pictures."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    pipe = diffusers.FluxPipeline(
        scheduler=scheduler,
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: Any, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    made: Tensor = pipe(
        prompt_embeds=torch.randn(1, 6, 32, generator=generator),
        pooled_prompt_embeds=torch.randn(1, 32, generator=generator),
        latents=torch.randn(1, 16, 4, generator=generator),
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=1.0,
        output_type="latent",
    ).images
    return made


def test_flux_samples_the_same_with_our_euler() -> None:
    expected = latents(flux(diffusers.FlowMatchEulerDiscreteScheduler(**FLUX)), 4)
    for name in ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler"):
        source = diffusers.FlowMatchEulerDiscreteScheduler(**FLUX)
        scheduler = getattr(diffusolve, name).from_config(source.config)
        assert torch.allclose(latents(flux(scheduler), 4), expected, atol=1e-5)


def test_other_samplers_are_nearer_to_many_steps_of_euler() -> None:
    """In eight evaluations, on a network of small random weights, which is smooth enough.

    Heun's four steps take seven, and the last of them is Euler's, from a sigma of 0.5: it is near, not nearer.
    """
    pipe = flux(diffusers.FlowMatchEulerDiscreteScheduler(**FLUX))
    reference, euler = latents(pipe, 200), latents(pipe, 8)
    error = float((euler - reference).norm())
    wrong = []
    for name, steps in (("DPM++ 2M", 8), ("UniPC", 8), ("DEIS", 8), ("Heun", 4)):
        pipe = flux(diffusers.FlowMatchEulerDiscreteScheduler(**FLUX))
        diffusolve.patch(pipe, name)
        own = float((latents(pipe, steps) - reference).norm())
        if not own < error * (1.2 if name == "Heun" else 1.0):
            wrong.append(f"{name}: {own:.4f}, Euler {error:.4f}")
    assert not wrong, "\n".join(wrong)


def test_threads_share_a_pipeline_to_the_bit() -> None:
    pipe = flux(diffusolve.FlowMatchEulerDiscreteScheduler(**FLUX))
    alone = {steps: latents(pipe, steps) for steps in (2, 3)}
    together: dict[int, Tensor] = {}

    def work(number: int) -> None:
        together[number] = latents(pipe, 2 + number % 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[number], alone[2 + number % 2]) for number in range(32))
