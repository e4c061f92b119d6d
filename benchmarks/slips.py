"""Programs' own slips with the error of each, tables of the pages for their users: ``python -m benchmarks.slips``.

Each is an option of the solver or the spacing in a world (`diffusolve.catalog.worlds`); its error is that of the
program's sampler, beside that of the same sampler without the option.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.against_euler import START, Denoiser, ended, exact
from diffusolve.catalog import sampler
from diffusolve.noise import NOISE_SCHEDULES
from diffusolve.sampling import Sampler, sample

DOCS = Path(__file__).parent.parent / "docs"
MIXTURE = 0.9

MODELS = {"sd15": "Stable Diffusion", "sd3": "SD3"}


@dataclass(frozen=True)
class Slip:
    """A name of a program, what its program does there, and what undoes it.

    Attributes:
        name, schedule, model: where it shows.
        says: what the program does.
        undone: options of the solver or the spacing without it.
        given: options that both are measured with.
    """

    name: str
    schedule: str
    model: str
    says: str
    undone: dict[str, Any] = field(hash=False)
    given: dict[str, Any] = field(default_factory=dict, hash=False)


SLIPS = {
    "comfyui": (
        Slip("dpmpp_2m", "normal", "sd3", "steps in log sigma, not in log-SNR", {"sigma_alone": False}),
        Slip("res_multistep", "normal", "sd3", "steps in log sigma, not in log-SNR", {"sigma_alone": False}),
        Slip("deis", "simple", "sd3", "time of a schedule for alpha = 1", {"sigma_alone": False}),
        Slip("ipndm_v", "karras", "sd15", "a parenthesis, a sign and a ratio of its weights", {"misplaced": False}),
        Slip("lms", "simple", "sd15", "the last step is of first order", {"ends_with_data": False}),
        Slip("uni_pc", "karras", "sd15", "it ends at sigma 0.001, with that noise", {"end_sigma": 0.0}),
        Slip("uni_pc", "simple", "sd3", "steps in log sigma, not in log-SNR", {"sigma_alone": False}),
        Slip(
            "exp_heun_2_x0", "simple", "sd3", "the first step begins after 0.01 % of the time", {"start_percent": 0.0}
        ),
        Slip(
            "cfgpp_ud10_ab",
            "karras",
            "sd15",
            "noise is extrapolated by a tenth of the step (here without guidance)",
            {"noise_weight": 0.0},
            {"cfg_pp": False},
        ),
        Slip("euler", "normal", "sd3", "the smallest sigma is shifted twice", {"shifted_twice": False}),
    ),
    "a1111": (
        Slip("Euler", "KL Optimal", "sd15", "it ends at the smallest sigma, with its noise", {"final_sigma": "zero"}),
        Slip("UniPC", "Automatic", "sd15", "it ends at the smallest sigma, with its noise", {"final_sigma": "zero"}),
        Slip("DDIM", "Automatic", "sd15", "it ends at the smallest sigma, with its noise", {"final_sigma": "zero"}),
        Slip("Restart", "Simple", "sd15", "it restarts from 0 where that is nearer to 0.1", {"includes_end": False}),
    ),
}
"""World -> what its program does that is not as the method or the model has it, of deterministic samplers."""

NOISE: dict[str, dict[str, Any]] = {
    "ddpm": {"sigma_alone": False},
    "res_multistep_ancestral": {"sigma_alone": False},
    "euler_ancestral": {"ancestral": "posterior"},
    "dpmpp_2s_ancestral": {"ancestral": "posterior"},
}
"""Stochastic samplers of ComfyUI whose noise on flow matching is its own -> what undoes it."""

STEPS = (10, 20)


def errors(made: Sampler, model: str) -> list[float]:
    """Root mean square errors in 10 and 20 steps, of samples of size 1."""
    network = Denoiser(NOISE_SCHEDULES[model], MIXTURE)
    return [float(np.sqrt(np.mean((_ended(made, network, n) - exact(network)) ** 2))) for n in STEPS]


def _ended(made: Sampler, network: Denoiser, steps: int) -> Any:
    if not made.plan(network.noise_schedule, "sample", steps).is_stochastic:
        return ended(made, network, steps)
    start = made.grid(network.noise_schedule, steps)[0].sigma * START
    return sample(network, start, made, steps=steps, noise=lambda like, s, t: 0 * like)


def without(made: Sampler, undone: dict[str, Any]) -> Sampler:
    """`made` with the options of its solver, or of the spacing inside it, changed."""
    of_solver = {key: value for key, value in undone.items() if key in made.solver.defaults}
    spacing: Any = made.spacing
    others = {key: value for key, value in undone.items() if key not in of_solver}
    if others:
        inner = getattr(spacing, "inner", spacing)
        changed = dataclasses.replace(inner, **others)
        spacing = changed if inner is spacing else dataclasses.replace(spacing, inner=changed)
    return dataclasses.replace(made, solver=made.solver.with_options(**of_solver), spacing=spacing)


def slips(world: str) -> str:
    """The table of a world."""
    heading = ["name", "schedule", "model", "what it does", *(f"error in {n} steps, and without" for n in STEPS)]
    rows = [heading, ["---"] * len(heading)]
    for slip in SLIPS[world]:
        made = sampler(slip.name, slip.schedule, world=world, **slip.given)
        own, other = errors(made, slip.model), errors(without(made, slip.undone), slip.model)
        numbers = [f"{a:.3f}, {b:.3f}" for a, b in zip(own, other, strict=True)]
        rows.append([f"`{slip.name}`", slip.schedule, MODELS[slip.model], slip.says, *numbers])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def noise() -> str:
    """Mean and standard deviation of what stochastic samplers make of normal data on SD3, 20 steps of "simple"."""
    rows = [["name", "mean (0.10)", "standard deviation (0.50)", "both without"], ["---"] * 4]
    network = Denoiser(NOISE_SCHEDULES["sd3"], 0.0)
    for name, undone in NOISE.items():
        made = sampler(name, "simple", world="comfyui")
        (mean, deviation), (other_mean, other) = (moments(each, network) for each in (made, without(made, undone)))
        rows.append([f"`{name}`", f"{mean:.2f}", f"{deviation:.2f}", f"{other_mean:.2f}, {other:.2f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def moments(made: Sampler, network: Denoiser) -> tuple[float, float]:
    """Mean and standard deviation of 20,000 samples."""
    drawn = np.random.default_rng(0)
    start = made.grid(network.noise_schedule, 20)[0].sigma * drawn.standard_normal((1, 20_000))
    samples = sample(network, start, made, steps=20, noise=lambda like, s, t: drawn.standard_normal(like.shape))
    return float(samples.mean()), float(samples.std())


PAGES = {"coming-from-comfyui.md": ("comfyui", True), "coming-from-a1111.md": ("a1111", False)}


def filled(page: str, name: str) -> str:
    """A page with its tables, each between its comments."""
    world, noisy = PAGES[name]
    for what, table in {"slips": slips(world), **({"noise": noise()} if noisy else {})}.items():
        begin, end = f"<!-- begin {what} -->\n", f"<!-- end {what} -->\n"
        before, rest = page.split(begin)
        page = f"{before}{begin}{table}\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    for name in PAGES:
        path = DOCS / name
        path.write_text(filled(path.read_text(encoding="utf-8"), name), encoding="utf-8")
