"""Runs the nodes in a checkout of ComfyUI, on the CPU and a small network, and compares them with its own samplers.

``python try_in_comfyui.py CHECKOUT`` prints tables, and ends with 1 if a picture is not the same.
The checkout's requirements must be installed beside diffusolve.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

SAME = 5e-3
"""Of the largest number in a picture."""

HERE = Path(__file__).resolve().parent
STEPS, SEED, GUIDANCE = 8, 7, 2.0
SHAPE = (2, 4, 8, 8)


class Checkout:
    """The modules of a checkout that are needed here, wherever its authors keep them."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        sys.argv = ["main.py", "--cpu"]  # ComfyUI reads it when it is imported, once that is allowed
        importlib.import_module("comfy.options").enable_args_parsing()
        warnings.filterwarnings("ignore")
        logging.disable(logging.CRITICAL)
        self.samplers = importlib.import_module("comfy.samplers")
        self.model_base = importlib.import_module("comfy.model_base")
        self.model_patcher = importlib.import_module("comfy.model_patcher")
        self.latent_formats = importlib.import_module("comfy.latent_formats")
        self.configurations = importlib.import_module("comfy.supported_models_base")
        self.custom_sampling = first("comfy_extras.nodes_custom_sampler", "comfy_extras.nodes.nodes_custom_sampler")
        sys.modules["folder_paths"] = self.folder_paths = first("folder_paths", "comfy.cmd.folder_paths")

    def model(self, kind: str) -> Any:
        """A MODEL of ComfyUI around a :class:`Network`; `kind` is "EPS", "FLOW", "FLUX", "EDM" or "V_PREDICTION"."""
        base = self.configurations.BASE
        given = {
            "unet_config": {"disable_unet_model_creation": True},
            "latent_format": self.latent_formats.SD15,
            "sampling_settings": {"FLOW": {"shift": 3.0}, "FLUX": {"shift": 1.15}}.get(kind, {}),
        }
        configuration = type("Small", (base,), given)(dict(given["unet_config"]))
        built = self.model_base.BaseModel(configuration, self.model_base.ModelType[kind], torch.device("cpu"))
        built.diffusion_model = Network()
        return self.model_patcher.ModelPatcher(built, torch.device("cpu"), torch.device("cpu"))

    def guider(self, model: Any) -> Any:
        """A GUIDER with guidance from one condition away from another."""
        made = self.samplers.CFGGuider(model)
        made.set_conds([[torch.full((1, 2, 4), 0.3), {}]], [[torch.full((1, 2, 4), -0.2), {}]])
        made.set_cfg(GUIDANCE)
        return made

    def sampled(self, model: Any, sampler: Any, sigmas: Tensor, seed: int = SEED, shape: Any = SHAPE) -> Tensor:
        """What CFGGuider makes with a SAMPLER of `sigmas`, from noise of `seed` on."""
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        own = sigmas.clone()  # some of ComfyUI's samplers write to them
        result: Tensor = self.guider(model).sample(
            noise, torch.zeros(shape), sampler, own, disable_pbar=True, seed=seed
        )
        return result

    def advanced(self, model: Any, noise: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any]) -> Tensor:
        """What the node SamplerCustomAdvanced makes."""
        node = self.custom_sampling.SamplerCustomAdvanced
        run = node.execute if hasattr(node, "execute") else node().sample
        result: Tensor = run(noise, self.guider(model), sampler, sigmas, latent)[0]["samples"]
        return result


class Network(torch.nn.Module):
    """A smooth function of samples, time and condition."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 2)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **others: Any) -> Tensor:
        mixed = torch.einsum("ij,bj...->bi...", self.mix, x)
        column = (len(x), *[1] * (x.ndim - 1))
        return 0.8 * x + 0.3 * torch.tanh(
            mixed + context.mean((1, 2)).reshape(column) + timesteps.reshape(column) / 500
        )


def first(*names: str) -> ModuleType:
    """The first module of `names` that is there."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and a requirement of its is not
    return importlib.import_module(names[-1])


def nodes_of_this_folder() -> Mapping[str, Any]:
    """The pack's nodes, imported as ComfyUI imports a folder of custom_nodes."""
    name = str(HERE)
    spec = importlib.util.spec_from_file_location(name, HERE / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    mappings: Mapping[str, Any] = module.NODE_CLASS_MAPPINGS
    return mappings


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest number; infinite if there are NaN."""
    if ours.shape != theirs.shape:
        return float("inf")
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    return difference if difference == difference else float("inf")


def attempted(compare: Callable[[], float]) -> float | str:
    """The difference; or the error, where ComfyUI's own code or ours raises one."""
    try:
        return compare()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def samplers(checkout: Checkout, nodes: Mapping[str, Any], kind: str, sigmas_node: bool) -> dict[str, float | str]:
    """Name -> how far ours is from ComfyUI's, on ComfyUI's `normal` sigmas or on those of our node."""
    model, node = checkout.model(kind), nodes["DiffusolveSamplerComfyUI"]()
    theirs = checkout.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    ours = nodes["DiffusolveSigmasComfyUI"]().make(model, "normal", STEPS, 1.0)[0] if sigmas_node else theirs

    def compare(name: str) -> float:
        there = checkout.sampled(model, checkout.samplers.sampler_object(name), theirs)
        return apart(checkout.sampled(model, node.make(name)[0], ours), there)

    return {name: attempted(partial(compare, name)) for name in checkout.samplers.SAMPLER_NAMES}


def schedules(checkout: Checkout, nodes: Mapping[str, Any], kind: str) -> dict[str, float | str]:
    """Name -> how far our sigmas are from ComfyUI's: the worst of several numbers of steps."""
    model, node = checkout.model(kind), nodes["DiffusolveSigmasComfyUI"]()
    there = checkout.custom_sampling.BasicScheduler
    run = there.execute if hasattr(there, "execute") else there().get_sigmas
    cases = [(steps, denoise) for steps in (5, 13, 20, 30) for denoise in (1.0, 0.6)]

    def compare(name: str) -> float:
        return max(apart(node.make(model, name, *case)[0], run(model, name, *case)[0]) for case in cases)

    return {name: attempted(partial(compare, name)) for name in checkout.samplers.SCHEDULER_NAMES}


def others(checkout: Checkout, nodes: Mapping[str, Any]) -> dict[str, float | str]:
    """The nodes that have no peer in ComfyUI: what they promise -> how far they are from it."""
    promises = {"image of a batch alone": rows, "plan": plan, "picture": drawn}
    return {
        f"{what}, {kind}": attempted(partial(promise, checkout, nodes, checkout.model(kind)))
        for kind in ("EPS", "FLOW")
        for what, promise in promises.items()
    }


def rows(checkout: Checkout, nodes: Mapping[str, Any], model: Any) -> float:
    """Each image of a batch is ComfyUI's own of its seed alone; so is one taken out of a batch."""
    sigmas, worst = nodes["DiffusolveSigmasComfyUI"]().make(model, "karras", STEPS, 1.0)[0], 0.0
    batch = {"samples": torch.zeros(3, *SHAPE[1:])}
    alone = {"samples": torch.zeros(1, *SHAPE[1:]), "batch_index": [2]}
    for name in ("euler", "euler_ancestral", "dpmpp_2m_sde"):
        ours, own = nodes["DiffusolveSamplerComfyUI"]().make(name)[0], checkout.samplers.sampler_object(name)
        noise = nodes["DiffusolveNoisePerRow"]().make(SEED)[0]
        made = checkout.advanced(model, noise, ours, sigmas, batch)
        for i in range(3):
            random = checkout.custom_sampling.Noise_RandomNoise(SEED + i)
            one = checkout.advanced(model, random, own, sigmas, {"samples": torch.zeros(1, *SHAPE[1:])})
            worst = max(worst, apart(made[i : i + 1], one))
        worst = max(worst, apart(checkout.advanced(model, noise, ours, sigmas, alone), made[2:]))
    return worst


def plan(checkout: Checkout, nodes: Mapping[str, Any], model: Any) -> float:
    """A plan file gives what the sampler by name gives."""
    from diffusolve import sampler

    flow = float(model.get_model_object("model_sampling").sigma_max) == 1
    worst = 0.0
    for name in ("Euler", "DPM++ 2M", "UniPC", "Heun", "Euler CFG++"):
        named = sampler(f"{name} Karras")
        made = named.plan("sd3", "flow", 10) if flow else named.plan("sd15", "epsilon", 10)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plan.json"
            file.write_text(made.to_json(), encoding="utf-8")
            walked, sigmas = nodes["DiffusolvePlan"]().make(str(file))
        named = nodes["DiffusolveSampler"]().make(name)[0]
        worst = max(worst, apart(checkout.sampled(model, walked, sigmas), checkout.sampled(model, named, sigmas)))
    return worst


def drawn(checkout: Checkout, nodes: Mapping[str, Any], model: Any) -> float:
    """A picture is an IMAGE; 0 if so."""
    sigmas = nodes["DiffusolveSigmas"]().make(model, "Karras", STEPS, 1.0)[0]
    image = nodes["DiffusolvePicture"]().draw(model, nodes["DiffusolveSampler"]().make("DPM++ 2M")[0], sigmas)[0]
    return 0.0 if image.ndim == 4 and image.shape[3] == 3 and 0 <= image.min() < image.max() <= 1 else float("inf")


def table(title: str, columns: Mapping[str, Mapping[str, float | str]]) -> list[str]:
    """Print a table of differences; the names of those that are too large."""
    print(f"\n| {title} | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for name in next(iter(columns.values())):
        cells = [column[name] for column in columns.values()]
        print(f"| {name} | {' | '.join(cell if isinstance(cell, str) else f'{cell:.1e}' for cell in cells)} |")
    return [f"{title} {name}" for column in columns.values() for name, cell in column.items() if not small(cell)]


def small(cell: float | str) -> bool:
    return not isinstance(cell, str) and cell <= SAME


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a folder with ComfyUI's code")
    given = parser.parse_args()
    checkout = Checkout(given.checkout.resolve())
    nodes = nodes_of_this_folder()
    torch.set_num_threads(1)
    kinds = {"eps": "EPS", "flow": "FLOW"}
    on_same = {label: samplers(checkout, nodes, kind, sigmas_node=False) for label, kind in kinds.items()}
    by_names = {f"{label}, our sigmas": samplers(checkout, nodes, kind, True) for label, kind in kinds.items()}
    more = {"eps": "EPS", "v": "V_PREDICTION", "EDM": "EDM", "flow": "FLOW", "Flux": "FLUX"}
    failed = table("sampler", on_same | by_names)
    failed += table("scheduler", {label: schedules(checkout, nodes, kind) for label, kind in more.items()})
    failed += table("node", {"difference": others(checkout, nodes)})
    print(f"\nnot the same: {', '.join(dict.fromkeys(failed)) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
