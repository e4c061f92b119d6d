"""The network of a diffusers pipeline, from a folder or the Hub, as a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusolve.denoisers.wrap import ClassifierFreeGuidance, Denoiser
from diffusolve.noise.from_config import noise_schedule_from_config
from diffusolve.prediction import EDM, prediction

__all__ = ["PipelineModel", "conditioned", "load_pipeline", "open_pipeline"]


@dataclass(frozen=True)
class PipelineModel:
    """The parts of a pipeline that sampling takes.

    Attributes:
        network: the denoiser; knows its noise schedule and prediction type.
        shape: of one sample.
        decode: samples (batch, *shape) -> images (batch, channels, height, width) in [-1, 1].
    """

    network: Any
    shape: tuple[int, ...]
    decode: Callable[[Tensor], Tensor]


def load_pipeline(
    path: str,
    batch_size: int,
    *,
    prompt: str | list[str] | None = None,
    label: int | None = None,
    guidance: float = 1.0,
) -> PipelineModel:
    """Load the pipeline in folder `path`, or with the Hub id `path`, through diffusers.

    Args:
        path: a folder with a model_index.json, or ``organisation/name``.
        batch_size: how many samples will be made at once.
        prompt: for text-to-image pipelines (Stable Diffusion 1.x and 2.x); of a list each is made `batch_size` times.
        label: for networks conditioned on a class.
        guidance: classifier-free guidance scale for a prompt.

    Raises:
        ImportError: diffusers is not installed.
        OSError: no such folder or Hub repository.
        ValueError: a kind of pipeline that this function cannot drive, or options that it has no use for.
    """
    return conditioned(open_pipeline(path), path, batch_size, prompt=prompt, label=label, guidance=guidance)


def open_pipeline(path: str) -> Any:
    """The pipeline of diffusers in folder `path`, or with that Hub id. Raises as :func:`load_pipeline` does."""
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ImportError(
            f"loading the pipeline {path!r} needs diffusers: pip install 'diffusolve[diffusers]'."
        ) from error
    if Path(path).is_dir() and not (Path(path) / "model_index.json").is_file():
        raise FileNotFoundError(f"{path} is no pipeline folder: it has no model_index.json.")
    try:
        return DiffusionPipeline.from_pretrained(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        if Path(path).is_dir():
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(f"there is no folder {path}, and the Hub does not give it: {first}") from error


def conditioned(
    pipeline: Any, path: str, batch_size: int, *, prompt: str | list[str] | None, label: int | None, guidance: float
) -> PipelineModel:
    """The network of a `pipeline` that was opened from `path`; arguments and errors as of :func:`load_pipeline`."""
    config = {"_class_name": type(pipeline.scheduler).__name__, **pipeline.scheduler.config}
    predicts = config.get("prediction_type", "epsilon")
    if str(config["_class_name"]).startswith("EDM"):
        predicts = EDM(config.get("sigma_data", 0.5))
    elif str(config["_class_name"]).startswith("FlowMatch"):
        predicts = prediction("flow")
    parts = set(pipeline.components)
    schedule = noise_schedule_from_config(config)
    if parts == {"unet", "scheduler"}:
        if prompt is not None or guidance != 1.0:
            raise ValueError(f"{path} is an unconditional pipeline: it takes no prompt and no guidance.")
        unet = _unconditional(pipeline.unet, batch_size, label)
        return PipelineModel(Denoiser(unet, predicts, schedule), _shape(pipeline.unet), lambda x: x)
    if {"unet", "vae", "text_encoder", "tokenizer"} <= parts and "text_encoder_2" not in parts:
        if prompt is None:
            raise ValueError(f"{path} is a text-to-image pipeline: give a prompt.")
        if label is not None:
            raise ValueError(f"{path} is a text-to-image pipeline: it takes a prompt, not a class.")
        text = Denoiser(lambda x, t, c: pipeline.unet(x, t, encoder_hidden_states=c).sample, predicts, schedule)
        none = "" if isinstance(prompt, str) else [""] * len(prompt)
        condition, unconditional = pipeline.encode_prompt(
            prompt, pipeline.device, batch_size, True, negative_prompt=none
        )
        guided = ClassifierFreeGuidance(text, condition, unconditional, guidance)
        scaling = pipeline.vae.config.scaling_factor
        return PipelineModel(guided, _shape(pipeline.unet), lambda x: pipeline.vae.decode(x / scaling).sample)
    raise ValueError(
        f"{path} is a {type(pipeline).__name__} with {', '.join(sorted(parts))}: only unconditional UNet pipelines and "
        "Stable Diffusion 1.x and 2.x can be loaded here."
    )


def _unconditional(unet: Any, batch_size: int, label: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    classes = unet.config.get("num_class_embeds")
    if classes is None:
        if label is not None:
            raise ValueError(f"class {label} was asked for, but this network is not conditioned on a class.")
        return lambda x, t: unet(x, t).sample
    if label is None or not 0 <= label < classes:
        raise ValueError(f"class {label}: this network needs a class from 0 to {classes - 1}.")
    labels = torch.full((batch_size,), label, device=unet.device)
    return lambda x, t: unet(x, t, class_labels=labels).sample


def _shape(unet: Any) -> tuple[int, ...]:
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width
