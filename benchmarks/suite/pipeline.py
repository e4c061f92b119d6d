"""Area `pipeline`: a whole Stable Diffusion pipeline, with a network so small that the scheduler shows."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import diffusolve
from benchmarks.suite.loops import configured
from benchmarks.suite.machine import machine
from benchmarks.suite.peers import attempted_loop, diffusers, missing, quiet
from benchmarks.suite.result import Figure, Result, Table
from benchmarks.suite.settings import Settings
from benchmarks.suite.timing import Loop, interleaved, threads
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers

__all__ = ["measure", "names", "small_stable_diffusion"]

CLASSES = tuple(kind.name for kind in KarrasDiffusionSchedulers)
STEPS, SIZE, WIDTH = 20, 32, 4
"""Steps; pixels of the image's sides, which the latents have too; numbers in a word's embedding."""

MILLI = 1e3


def names() -> tuple[str, ...]:
    """What can be measured."""
    return CLASSES


def measure(settings: Settings) -> Result:
    """Measure it."""
    library, quick, described = diffusers(), settings.effort.quick, machine()
    if library is None:
        return Result("pipeline", quick, described, (), (), (f"{missing('diffusers')} It has the pipelines.",))
    figures = []
    with torch.no_grad(), quiet(), threads(1):
        try:
            pipeline = small_stable_diffusion(library)
        except ImportError as error:  # transformers
            return Result("pipeline", quick, described, (), (), (str(error),))
        for name in CLASSES:
            if not settings.wants(name):
                continue
            settings.tell(f"pipeline: {name}")
            figures.append(_figure(name, pipeline, library, settings))
    title = f"Milliseconds of a pipeline, {STEPS} steps with guidance; floor: a scheduler that does nothing"
    tables = (Table("pipeline", title, "ms", "diffusers", tuple(figures)),) if figures else ()
    return Result("pipeline", quick, described, tables)


def _figure(name: str, pipeline: Any, library: Any, settings: Settings) -> Figure:
    scheduler = configured(getattr(diffusolve, name))
    contestants = {"here": _loop(pipeline, scheduler)}
    try:
        contestants["here"]()
    except ImportError as error:  # torchsde
        return Figure(name, "pipeline", None, note=str(error))
    contestants["idle"] = _loop(pipeline, Idle(scheduler.config, len(scheduler.timesteps)))
    there, note = attempted_loop(lambda: _loop(pipeline, configured(getattr(library, name))))
    if there is not None:
        contestants["there"] = there
    medians, rounds = interleaved(contestants, settings.effort)
    milliseconds = {who: seconds * MILLI for who, seconds in medians.items()}
    here, there_ms, floor = milliseconds["here"], milliseconds.get("there"), milliseconds["idle"]
    return Figure(name, "pipeline", here, there_ms, floor, rounds, note)


class Idle:
    """A scheduler that leaves the sample as it is: what a pipeline costs without one."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, config: Any, evaluations: int) -> None:
        self.config = config
        self.timesteps = torch.arange(evaluations)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As many as there are."""

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """The sample."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        """The sample."""
        return (sample,)


def small_stable_diffusion(library: Any) -> Any:
    """A Stable Diffusion pipeline of diffusers with random weights, without a text encoder.

    Raises:
        ImportError: something that it needs is not installed.
    """
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        made = library.StableDiffusionPipeline(
            vae=library.AutoencoderKL(
                block_out_channels=(4,),
                norm_num_groups=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",),
                up_block_types=("UpDecoderBlock2D",),
            ).eval(),
            text_encoder=None,
            tokenizer=None,
            unet=library.UNet2DConditionModel(
                SIZE,
                block_out_channels=(4,),
                layers_per_block=1,
                norm_num_groups=2,
                cross_attention_dim=WIDTH,
                down_block_types=("DownBlock2D",),
                mid_block_type=None,
                up_block_types=("UpBlock2D",),
            ).eval(),
            scheduler=configured(library.DDIMScheduler, clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    finally:
        torch.random.set_rng_state(generator)
    made.set_progress_bar_config(disable=True)
    return made


def _loop(pipeline: Any, scheduler: Any) -> Loop:
    """The seconds of a call of the pipeline with `scheduler`, from the latents to the image."""
    words = SimpleNamespace(
        prompt_embeds=torch.ones(1, 8, WIDTH), negative_prompt_embeds=torch.zeros(1, 8, WIDTH), guidance_scale=3.0
    )
    latents = torch.ones(1, 4, SIZE, SIZE)

    def loop() -> float:
        pipeline.scheduler = scheduler
        begun = time.perf_counter()
        pipeline(**vars(words), latents=latents, height=SIZE, width=SIZE, num_inference_steps=STEPS, output_type="pt")
        return time.perf_counter() - begun

    return loop
