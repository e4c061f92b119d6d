"""The emoji network as a diffusers pipeline folder, to see scheduler classes in a real pipeline.

    python -m examples.emoji_pipeline emoji-pipeline

writes the folder, with the weights that ship or, with ``--weights``, those that ``examples.train_emoji`` wrote.
Afterwards:

    from examples.emoji_pipeline import EmojiPipeline

    pipe = EmojiPipeline.from_pretrained("emoji-pipeline")
    pipe.scheduler = diffusolve.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe("cat-face", guidance_scale=2.0, num_inference_steps=20).images[0].save("cat.png")

``python -m diffusolve sample --model emoji-pipeline --class 12`` takes it too, without guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from diffusolve.denoisers.emoji import class_label, load_emoji_classes
from diffusolve.denoisers.emoji_network import NO_CLASS, EmojiNetwork, load_emoji_network


@dataclass
class Output:
    """A network's output as diffusers' pipelines take it.

    Attributes:
        sample: the v-prediction, shape (B, 3, 32, 32).
    """

    sample: Tensor


class EmojiUNet(ModelMixin, ConfigMixin):
    """The emoji network with the configuration and the call of diffusers' UNets."""

    @register_to_config
    def __init__(self, sample_size: int = 32, in_channels: int = 3, num_class_embeds: int = NO_CLASS + 1) -> None:
        super().__init__()
        self.network = EmojiNetwork()

    def forward(self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor) -> Output:
        """Predict v for `sample`, shape (B, 3, 32, 32), at one timestep for all or one for each."""
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        return Output(self.network(sample, times, class_labels))


class EmojiPipeline(DiffusionPipeline):
    """Emoji of the classes asked for."""

    def __init__(self, unet: EmojiUNet, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        classes: str | Sequence[str],
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> ImagePipelineOutput:
        """Make an emoji of each of the classes.

        Args:
            classes: names, as ``diffusolve list --model emoji`` shows them.
            num_inference_steps: of the scheduler.
            guidance_scale: of classifier-free guidance; 1 is none.
            generator: of the noise.

        Raises:
            UnknownNameError: there is no such class.
        """
        names = [classes] if isinstance(classes, str) else list(classes)
        labels = torch.tensor([class_label(name) for name in names], device=self.device)
        both = torch.cat([torch.full_like(labels, NO_CLASS), labels])
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        x = torch.randn(len(names), 3, 32, 32, generator=generator, device=self.device, dtype=self.unet.dtype)
        x = x * self.scheduler.init_noise_sigma
        for timestep in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(torch.cat([x, x]), timestep)
            unconditional, conditional = self.unet(scaled, timestep, both).sample.chunk(2)
            output = torch.lerp(unconditional, conditional, guidance_scale)
            x = self.scheduler.step(output, timestep, x).prev_sample
        pixels = ((x.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).float().cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(pixels))


def emoji_pipeline(weights: Path | None = None) -> EmojiPipeline:
    """The pipeline with the weights in a file that training wrote, or with those that ship."""
    unet = EmojiUNet()
    unet.network.load_state_dict(load_emoji_network(weights).state_dict())
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return EmojiPipeline(unet, scheduler)


def main(
    folder: Annotated[Path, typer.Argument(help="Where the pipeline goes.")],
    weights: Annotated[
        Path | None, typer.Option(help="A file that examples.train_emoji wrote; without it the weights that ship.")
    ] = None,
) -> None:
    """Write the emoji network as a diffusers pipeline folder."""
    emoji_pipeline(weights).save_pretrained(folder)
    typer.echo(f"pipeline of {len(load_emoji_classes())} classes written to {folder}")


if __name__ == "__main__":
    # By its name as a module: the folder says which module the classes are in.
    from examples.emoji_pipeline import main as write

    typer.run(write)
