"""The nodes: what each is called, what it takes and gives, and how it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffusolve
from diffusolve import Plan, Sampler
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, WORLDS
from diffusolve.errors import shown
from diffusolve.noise import Scaling

from .levels import any_sigma, noise_schedule_of
from .noise import NoisePerRow
from .picture import picture
from .walk import ByPlan, BySampler

CATEGORY = "sampling/diffusolve"
COMFYUI = WORLDS["comfyui"]
Inputs = dict[str, dict[str, tuple[Any, ...]]]

OPTIONS = (
    "STRING",
    {
        "default": "",
        "tooltip": "What is different from the sampler's defaults, for example: eta=0.5, s_noise=1.01. A name that it "
        "does not have is answered with the nearest that it has.",
    },
)
MODEL = ("MODEL", {"tooltip": "The model that is sampled with; the sigmas are its own."})
STEPS = ("INT", {"default": 20, "min": 1, "max": 10_000, "tooltip": "How many steps."})
DENOISE = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.01,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "Below 1 only the last steps of steps / denoise, to change an image instead of making one.",
    },
)


class MakesSampler:
    """What the nodes that make a sampler have in common."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("For SamplerCustom and SamplerCustomAdvanced.",)
    FUNCTION = "make"


class MakesSigmas:
    """What the nodes that make sigmas have in common."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("SIGMAS",)
    OUTPUT_TOOLTIPS = ("Where the steps fall, from noise to data.",)
    FUNCTION = "make"


class SamplerByName(MakesSampler):
    """A solver of diffusolve by the name that people know."""

    DESCRIPTION = (
        "A sampler by the name that people know, as diffusolve reads it: right on flow-matching models too, without "
        "the slips that programs have. For the pictures that ComfyUI's own samplers make take the one by its name."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        name = ([*CATALOG], {"default": "DPM++ 2M", "tooltip": "The sampler. Schedules are in the SIGMAS nodes."})
        return {"required": {"sampler_name": name}, "optional": {"options": OPTIONS}}

    def make(self, sampler_name: str, options: str = "") -> tuple[Any]:
        return (ksampler(BySampler(diffusolve.sampler(sampler_name, **parsed(options)))),)


class SamplerByComfyUIsName(MakesSampler):
    """A sampler of ComfyUI, run by diffusolve."""

    DESCRIPTION = (
        "A sampler by ComfyUI's name, run by diffusolve: on the same SIGMAS and seed it makes the picture that "
        "ComfyUI's own makes, to rounding."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        name = ([*COMFYUI.samplers], {"default": "dpmpp_2m", "tooltip": "The sampler, as in KSamplerSelect."})
        return {"required": {"sampler_name": name}, "optional": {"options": OPTIONS}}

    def make(self, sampler_name: str, options: str = "") -> tuple[Any]:
        made = diffusolve.sampler(sampler_name, world="comfyui", **parsed(options))
        return (ksampler(BySampler(made, on_cpu=not sampler_name.endswith("_gpu"))),)


class SigmasByName(MakesSigmas):
    """Sigmas of one of diffusolve's schedule types."""

    DESCRIPTION = "The sigmas of a schedule by the name that people know, as diffusolve reads it, for this model."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        name = ([*SCHEDULE_TYPES], {"default": "Karras", "tooltip": "Where the steps fall."})
        return {
            "required": {"model": MODEL, "schedule": name, "steps": STEPS, "denoise": DENOISE},
            "optional": {"options": OPTIONS},
        }

    def make(self, model: Any, schedule: str, steps: int, denoise: float, options: str = "") -> tuple[Tensor]:
        made = diffusolve.sampler("Euler", schedule, **parsed(options))
        return (sigmas_of(made, model, steps, denoise),)


class SigmasByComfyUIsName(MakesSigmas):
    """Sigmas of one of ComfyUI's schedulers."""

    DESCRIPTION = "The sigmas of a scheduler by ComfyUI's name, equal to those of BasicScheduler to rounding."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        name = ([*COMFYUI.schedules], {"default": "karras", "tooltip": "The scheduler, as in BasicScheduler."})
        discard = (
            "BOOLEAN",
            {
                "default": False,
                "tooltip": "Leave out the last sigma but one, as KSampler does for dpm_2, dpm_2_ancestral, uni_pc and "
                "uni_pc_bh2, and BasicScheduler does not.",
            },
        )
        return {
            "required": {"model": MODEL, "scheduler": name, "steps": STEPS, "denoise": DENOISE},
            "optional": {"discard_penultimate": discard, "options": OPTIONS},
        }

    def make(
        self,
        model: Any,
        scheduler: str,
        steps: int,
        denoise: float,
        discard_penultimate: bool = False,
        options: str = "",
    ) -> tuple[Tensor]:
        given = {"discard_next_to_last_sigma": discard_penultimate, **parsed(options)}
        made = diffusolve.sampler("euler", scheduler, world="comfyui", **given)
        return (sigmas_of(made, model, steps, denoise),)


class PlanFromJSON:
    """A plan file as a sampler with its sigmas."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Runs a plan, a sampler as a table of numbers: one that `diffusolve plan NAME --json plan.json` wrote, or one "
        "that was fitted to a model. It has sigmas of its own; use both outputs together."
    )
    RETURN_TYPES = ("SAMPLER", "SIGMAS")
    OUTPUT_TOOLTIPS = ("Runs the plan; only on the SIGMAS beside it.", "The plan's own sigmas.")
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        tooltip = "The file; a path that is not absolute begins in ComfyUI's input folder."
        return {"required": {"path": ("STRING", {"default": "plan.json", "tooltip": tooltip})}}

    @classmethod
    def IS_CHANGED(cls, path: str) -> str:
        return read(path)

    def make(self, path: str) -> tuple[Any, Tensor]:
        walked = ByPlan(Plan.from_json(read(path)))
        return ksampler(walked), torch.tensor(walked.sigmas(walked.is_flow))


class PlanPicture:
    """A picture of the sigmas and the coefficients of a sampler."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Draws what a sampler does on these sigmas: where the steps fall, and which sum each step is."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("For PreviewImage or SaveImage.",)
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": MODEL,
                "sampler": ("SAMPLER", {"tooltip": "Of one of diffusolve's nodes."}),
                "sigmas": ("SIGMAS", {"tooltip": "Of any node; of a plan those of the same one."}),
            }
        }

    def draw(self, model: Any, sampler: Any, sigmas: Tensor) -> tuple[Tensor]:
        schedule = any_sigma(model.get_model_object("model_sampling"))
        flow, levels = schedule.scaling is Scaling.FLOW, tuple(sigmas.tolist())
        walked = getattr(sampler, "sampler_function", None)
        if isinstance(walked, ByPlan):
            walked.check(sigmas, flow)
            plan, title = walked.plan, f"plan of {walked.plan.solver}"
        elif isinstance(walked, BySampler):
            plan, title = walked.plan(schedule, levels), walked.sampler.name
        else:
            raise ValueError(
                f"the SAMPLER is {shown(walked or sampler)}, which has no table of coefficients: connect one of "
                "diffusolve's sampler nodes."
            )
        title += f": {plan.steps} steps, {plan.nfe} evaluations"
        return (torch.from_numpy(picture(plan, [*levels], title, logarithmic=not flow))[None],)


class NoiseForEachRow:
    """Noise that does not depend on the batch."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "A seed for each image of a batch: image i has the seed `noise_seed + i`, for the noise that it begins with "
        "and what diffusolve's samplers add between steps. It is the image that ComfyUI makes of that seed alone, "
        "whatever the size of the batch."
    )
    RETURN_TYPES = ("NOISE",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        widget = {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}
        return {"required": {"noise_seed": ("INT", {**widget, "tooltip": "The seed of the first image."})}}

    def make(self, noise_seed: int) -> tuple[NoisePerRow]:
        return (NoisePerRow(noise_seed),)


def ksampler(function: Any) -> Any:
    """A SAMPLER of ComfyUI that calls `function`."""
    from comfy.samplers import KSAMPLER  # type: ignore[import-not-found]

    return KSAMPLER(function)


def sigmas_of(made: Sampler, model: Any, steps: int, denoise: float) -> Tensor:
    """The last `steps` + 1 sigmas of ``steps / denoise`` steps of `made` for `model`, shape (steps + 1,)."""
    schedule = noise_schedule_of(model.get_model_object("model_sampling"))
    points = made.spacing.grid(schedule, int(steps / denoise))
    sigmas = schedule.scaling.sigma_from_log_snr([point.log_snr for point in points])
    return torch.tensor(sigmas, dtype=torch.float32)[-(steps + 1) :]


def parsed(options: str) -> dict[str, Any]:
    """The options in text such as ``eta=0.5, solver_type=heun``.

    Raises:
        ValueError: a part that is not of the form name=value.
    """
    result: dict[str, Any] = {}
    for part in options.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not part.strip():
            continue
        if not (name.isidentifier() and equals and value):
            raise ValueError(f"options has {part.strip()!r}: expected name=value, as in eta=0.5, solver_type=heun.")
        try:
            result[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            result[name] = value
    return result


def read(path: str) -> str:
    """The text of the file at `path`, which begins in ComfyUI's input folder unless it is absolute.

    Raises:
        FileNotFoundError: there is none.
    """
    import folder_paths  # type: ignore[import-not-found]  # ComfyUI's

    file = Path(folder_paths.get_input_directory()) / path
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no plan at {file}: write one with diffusolve plan 'DPM++ 2M Karras' --steps 20 --json "
            f"{file.name}, and put it into ComfyUI's input folder."
        )
    return file.read_text(encoding="utf-8")


NODES: dict[str, tuple[type, str]] = {
    "DiffusolveSampler": (SamplerByName, "Sampler (diffusolve)"),
    "DiffusolveSigmas": (SigmasByName, "Sigmas (diffusolve)"),
    "DiffusolveSamplerComfyUI": (SamplerByComfyUIsName, "Sampler by ComfyUI's name (diffusolve)"),
    "DiffusolveSigmasComfyUI": (SigmasByComfyUIsName, "Sigmas by ComfyUI's name (diffusolve)"),
    "DiffusolvePlan": (PlanFromJSON, "diffusolve plan (JSON)"),
    "DiffusolvePicture": (PlanPicture, "Sigmas and coefficients (diffusolve)"),
    "DiffusolveNoisePerRow": (NoiseForEachRow, "Noise per image (diffusolve)"),
}
"""Name in workflows -> the node, and its title."""

NODE_CLASS_MAPPINGS = {name: node for name, (node, _) in NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {name: title for name, (_, title) in NODES.items()}
