"""The network of a diffusers pipeline, from a folder or the Hub, as a denoiser."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusolve.denoisers.wrap import ClassifierFreeGuidance, Denoiser
from diffusolve.noise.from_config import noise_schedule_from_config
from diffusolve.prediction import prediction_from_config

__all__ = ["ConditionalPipeline", "PipelineModel", "conditioned", "load_pipeline", "open_pipeline", "parts_of"]


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
        with _quiet_in_logs():
            return _class_in(path, DiffusionPipeline).from_pretrained(path)
    except OSError as error:
        if Path(path).is_dir():
            raise
        reason = str(error).strip().partition("\n")[0].partition(" (")[0] or type(error).__name__
        raise OSError(f"there is no folder {path}, and the Hub does not give it: {reason.rstrip('.')}.") from error


@contextmanager
def _quiet_in_logs() -> Iterator[None]:
    """A time without diffusers' progress bars where nobody watches them."""
    from diffusers.utils import logging

    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _class_in(path: str, base: Any) -> Any:
    """The class to load a pipeline with: diffusers' `base`, which finds it by the name in the folder `path`.

    A name that diffusers does not know is of a class of somebody's own. Its network and scheduler can be loaded without
    it, if these are all its parts.

    Raises:
        ValueError: such a class with other parts, or a network of a module that cannot be imported.
    """
    import diffusers

    index = Path(path) / "model_index.json"
    if not index.is_file():  # on the Hub
        return base
    named = json.loads(index.read_text(encoding="utf-8"))
    own = named.get("_class_name")
    if own is None or hasattr(diffusers, str(own)):
        return base
    parts = {name: where for name, where in named.items() if name[0] != "_" and isinstance(where, list)}
    if set(parts) != {"unet", "scheduler"}:
        raise ValueError(
            f"{path} is a pipeline of the class {own}, which diffusers does not have, with {', '.join(sorted(parts))}: "
            "only those of a unet and a scheduler can be loaded without their class."
        )
    module = str(parts["unet"][0])
    try:
        import_module(module)
    except ImportError as error:
        raise ValueError(
            f"the network in {path} is {parts['unet'][1]} of the module {module}, which cannot be imported here "
            f"({error}): run python -m diffusolve in the folder where it can."
        ) from error

    class NetworkAndScheduler(base):  # type: ignore[misc]
        def __init__(self, unet: Any, scheduler: Any) -> None:
            super().__init__()
            self.register_modules(unet=unet, scheduler=scheduler)

    return NetworkAndScheduler


def conditioned(
    pipeline: Any, path: str, batch_size: int, *, prompt: str | list[str] | None, label: int | None, guidance: float
) -> PipelineModel:
    """The network of a `pipeline` that was opened from `path`; arguments and errors as of :func:`load_pipeline`."""
    opened = parts_of(pipeline, path)
    network = opened.network
    if opened.encode is None:
        if prompt is not None or guidance != 1.0:
            raise ValueError(f"{path} is an unconditional pipeline: it takes no prompt and no guidance.")
        unet = _unconditional(network, opened.classes, batch_size, label)
        return PipelineModel(Denoiser(unet, network.prediction, network.noise_schedule), opened.shape, opened.decode)
    if prompt is None:
        raise ValueError(f"{path} is a text-to-image pipeline: give a prompt.")
    if label is not None:
        raise ValueError(f"{path} is a text-to-image pipeline: it takes a prompt, not a class.")
    texts = [prompt] if isinstance(prompt, str) else prompt
    condition = torch.cat([opened.encode(text).repeat(batch_size, 1, 1) for text in texts])
    unconditional = opened.encode("").repeat(len(condition), 1, 1)
    guided = ClassifierFreeGuidance(network, condition, unconditional, guidance)
    return PipelineModel(guided, opened.shape, opened.decode)


@dataclass(frozen=True)
class ConditionalPipeline:
    """The parts of a pipeline, whatever each sample is conditioned on.

    Attributes:
        network: the denoiser, called with samples, timesteps and conditions: text embeddings (batch, tokens, features),
            or labels (batch,), or None for networks that take nothing.
        shape: of one sample.
        decode: samples (batch, *shape) -> images (batch, channels, height, width) in [-1, 1].
        encode: text -> its embedding (1, tokens, features); None if the pipeline takes no prompt.
        classes: the number of classes; None if the network is not conditioned on one.
        scale: pixels of an image for each place of a sample, along each side.
        modules: whose weights the numbers come from.
    """

    network: Denoiser
    shape: tuple[int, ...]
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[str], Tensor] | None
    classes: int | None
    scale: int
    modules: tuple[torch.nn.Module, ...]


def parts_of(pipeline: Any, path: str) -> ConditionalPipeline:
    """The parts of a `pipeline` that was opened from `path`.

    Raises:
        ValueError: a kind of pipeline that this function cannot drive.
    """
    config = {"_class_name": type(pipeline.scheduler).__name__, **pipeline.scheduler.config}
    predicts = prediction_from_config(config)
    parts = set(pipeline.components)
    schedule = noise_schedule_from_config(config)
    unet: Any = getattr(pipeline, "unet", None)
    if parts == {"unet", "scheduler"}:

        def of_labels(x: Tensor, t: Tensor, labels: Tensor | None) -> Any:
            return unet(x, t).sample if labels is None else unet(x, t, class_labels=labels).sample

        classes = unet.config.get("num_class_embeds")
        network = Denoiser(of_labels, predicts, schedule)
        return ConditionalPipeline(network, _shape(unet), lambda x: x, None, classes, 1, (unet,))
    if {"unet", "vae", "text_encoder", "tokenizer"} <= parts and "text_encoder_2" not in parts:
        vae = pipeline.vae

        def encode(text: str) -> Any:
            return pipeline.encode_prompt(text, unet.device, 1, False)[0]

        return ConditionalPipeline(
            Denoiser(lambda x, t, c: unet(x, t, encoder_hidden_states=c).sample, predicts, schedule),
            _shape(unet),
            lambda x: vae.decode(x / vae.config.scaling_factor).sample,
            encode,
            None,
            1 << (len(vae.config.block_out_channels) - 1),
            (unet, vae, pipeline.text_encoder),
        )
    raise ValueError(
        f"{path} is a {type(pipeline).__name__} with {', '.join(sorted(parts))}: only unconditional UNet pipelines and "
        "Stable Diffusion 1.x and 2.x can be loaded here."
    )


def _unconditional(
    network: Denoiser, classes: int | None, batch_size: int, label: int | None
) -> Callable[[Tensor, Tensor], Tensor]:
    if classes is None:
        if label is not None:
            raise ValueError(f"class {label} was asked for, but this network is not conditioned on a class.")
        return lambda x, t: network(x, t, None)
    if label is None or not 0 <= label < classes:
        given = "there is no class" if label is None else f"class {label}"
        raise ValueError(f"{given}: this network needs a class, from 0 to {classes - 1}.")
    labels = torch.full((batch_size,), label)
    return lambda x, t: network(x, t, labels.to(x.device))


def _shape(unet: Any) -> tuple[int, ...]:
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width
