"""Between the catalog's names and the scheduler classes of diffusers with their configurations."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusolve.catalog.class_steps import (
    CLASS_STEPS,
    SAME_SIGMAS,
    SCHEDULE_TYPES_OF_TIMESTEPS,
    TIMESTEP_SPACINGS,
    ClassSteps,
)
from diffusolve.catalog.entries import CATALOG, DiffusersClass, Entry
from diffusolve.catalog.find import AUTOMATIC, find, own_sampler
from diffusolve.catalog.schedule_types import SCHEDULE_TYPES, ScheduleType
from diffusolve.config import config_keys
from diffusolve.errors import unknown_name
from diffusolve.files import write_atomically
from diffusolve.sampling.sampler import Sampler
from diffusolve.schedulers import scheduler_class
from diffusolve.schedulers.flow_config import is_flow

__all__ = ["FromDiffusers", "ToDiffusers", "configuration_of", "from_diffusers", "nearest_with_class", "to_diffusers"]

CONFIG_FILE = "scheduler_config.json"

SOLVER_KEYS = (
    "algorithm_type",
    "corrector_order",
    "predict_x0",
    "predictor_order",
    "skip_prk_steps",
    "solver_order",
    "solver_type",
)
"""Configuration keys that say which solver it is."""

CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
"""Configuration keys that say where the steps fall, besides `timestep_spacing`."""

ENDS: Mapping[str, Mapping[Any, str]] = MappingProxyType(
    {
        "set_alpha_to_one": {True: "zero", False: "sigma_min"},
        "final_sigmas_type": {"zero": "zero", "sigma_min": "sigma_min"},
    }
)
"""Configuration keys that say where sampling ends -> their values as the `final_sigma` of a spacing."""

OTHER_KEYS = (
    "clip_sample",
    "disable_corrector",
    "euler_at_final",
    "interpolation_type",
    "lambda_min_clipped",
    "shift_terminal",
    "solver_p",
    "thresholding",
    "timestep_type",
)
"""Other configuration keys that change the sample and have no name."""

OF_THE_CURVE = ("sigma_min", "sigma_max")
"""Configuration keys that a spacing over sigmas takes too."""

FLOW_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "FlowMatchEulerDiscreteScheduler": "Euler",
        "FlowMatchHeunDiscreteScheduler": "Heun",
        "FlowMatchLCMScheduler": "LCM",
        "FlowMatchSDEDiscreteScheduler": "Flow SDE",
        "LTXEulerAncestralRFScheduler": "Euler a",
    }
)
"""Classes for flow matching alone -> the sampler's name."""

SAME_CLASSES: Mapping[str, str] = MappingProxyType(
    {"DDIMParallelScheduler": "DDIMScheduler", "DDPMParallelScheduler": "DDPMScheduler"}
)
"""Classes that sample as another one does -> that one."""

OF_ONE_MODEL: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "CMStochasticIterativeScheduler": ("LCM", "consistency models on the noise schedule of EDM"),
        "CogVideoXDDIMScheduler": ("DDIM", "CogVideoX"),
        "CogVideoXDPMScheduler": ("DPM++ 2M SDE", "CogVideoX"),
        "CosineDPMSolverMultistepScheduler": ("DPM++ 2M SDE", "Stable Audio"),
        "DDPMWuerstchenScheduler": ("DDPM", "Wuerstchen and Stable Cascade"),
        "EDMDPMSolverMultistepScheduler": ("DPM++ 2M", "EDM networks"),
        "EDMEulerScheduler": ("Euler", "EDM networks"),
        "SCMScheduler": ("LCM", "Sana-Sprint"),
        "UnCLIPScheduler": ("DDPM", "unCLIP"),
    }
)
"""Classes for models of one family -> the sampler's name, and that family."""

FLOW_DIFFERENCE = "it is for flow matching: sample on a FlowMatching noise schedule"

STRIDES = "each of its steps leads num_train_timesteps // steps timesteps down, wherever the next one is"


@dataclass(frozen=True)
class ToDiffusers:
    """A sampler's scheduler class and configuration in diffusers.

    Attributes:
        name: the sampler's.
        class_name: the scheduler's class.
        config: the keys that make it this sampler, to be joined with those of the model.
        differences: in words, each way in which the scheduler is not quite the sampler; empty if it is.
    """

    name: str
    class_name: str
    config: dict[str, Any]
    differences: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """True if the class makes the same steps."""
        return not self.differences

    def joined(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A model's configuration, changed to this sampler; keys of other classes stay for the way back.

        Raises:
            ValueError: the configuration is flow matching's.
        """
        if is_flow(config):
            raise ValueError(
                f"the configuration is of a flow-matching model, and {self.class_name} with these keys has betas: use "
                f"diffusolve.scheduler({self.name!r}, like=config), which keeps the model's shift."
            )
        entry = find(self.name)[0]
        reset: dict[str, Any] = {curve: False for curve in CURVES if config.get(curve)}
        if not _of(entry).own_steps:
            expected = {**_defaults(self.class_name), **_of(entry).config}
            reset |= {key: expected[key] for key in _contradictions(entry, config, (*SOLVER_KEYS, *OTHER_KEYS))}
            ends = {key: next(iter(values)) for key, values in ENDS.items() if key in expected}
            reset |= {key: zero for key, zero in ends.items() if config.get(key, zero) != zero}
            reset |= {key: None for key in OF_THE_CURVE if key in expected and config.get(key) is not None}
        return {**config, **reset, **self.config, "_class_name": self.class_name}

    def scheduler(self, config: Mapping[str, Any] | None = None) -> Any:
        """The scheduler, with a model's configuration if one is given. Raises as :meth:`joined` does."""
        config = config or {}
        joined = self.joined(config)
        if _of(find(self.name)[0]).own_steps:  # no key of another class's changes them
            joined = {**config, **self.config}
        return scheduler_class(self.class_name).from_config(joined)

    def save(self, directory: str | PathLike[str], config: Mapping[str, Any] | None = None) -> Path:
        """Write ``scheduler_config.json`` into `directory`, which is created if missing, and return its path."""
        path = Path(directory) / CONFIG_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.joined(config or {}), indent=2, sort_keys=True) + "\n"
        write_atomically(path, text.encode())
        return path


@dataclass(frozen=True)
class FromDiffusers:
    """A scheduler's name in the catalog.

    Attributes:
        name: for :func:`~diffusolve.sampler`, with the schedule type.
        differences: in words, each way in which the sampler is not quite the scheduler; empty if it is.
        options: for :func:`~diffusolve.sampler` besides the name, for example ``{"final_sigma": "sigma_min"}`` of a
            scheduler that does not go on to the data.
    """

    name: str
    differences: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_exact(self) -> bool:
        """True if the sampler of that name, with the options, makes the same steps."""
        return not self.differences

    def sampler(self) -> Sampler:
        """The sampler: ``diffusolve.sampler(name, **options)``."""
        return own_sampler(self.name, **self.options)


def to_diffusers(name: str) -> ToDiffusers:
    """The scheduler class and configuration for the sampler called `name`, for example ``"DPM++ 2M SDE Karras"``.

    Raises:
        UnknownNameError: there is no such sampler.
        ValueError: diffusers has nothing like it; the nearest sampler that it has is named.
    """
    entry, schedule_type = find(name)
    there = entry.diffusers
    if there is None:
        raise ValueError(
            f"diffusers has no scheduler for {entry.name!r}; the nearest that it has is {nearest_with_class(entry)!r}."
        )
    same = own_sampler(name).solver == own_sampler(name, **there.options).solver if there.options else False
    differences = [there.difference] if there.difference and not same else []
    schedule_type = entry.automatic if schedule_type == AUTOMATIC else schedule_type or "Uniform"
    config = dict(there.config)
    if not entry.spaces_itself:
        config |= _spacing_config(SCHEDULE_TYPES[schedule_type], there, differences)
    if not there.own_steps and not entry.spaces_itself and CLASS_STEPS[there.name].end != "zero":
        differences.append("it ends at the sigma of timestep 0, and not at the data")
    if entry.discards:
        differences.append("A1111 leaves out the last sigma but one")
    return ToDiffusers(name, there.name, config, tuple(differences))


def _spacing_config(wanted: ScheduleType, there: DiffusersClass, differences: list[str]) -> dict[str, Any]:
    """The keys that make the class's sigmas those of a schedule type, or the nearest that there are."""
    if there.own_steps:
        return {}
    if wanted.config is None:
        differences.append(
            f"no configuration says {wanted.name!r}: give the sigmas with set_timesteps(sigmas=...) or (timesteps=...)"
        )
        return {}
    chooses_timesteps = "timestep_spacing" in wanted.config
    keys, steps = _defaults(there.name), CLASS_STEPS[there.name]
    if chooses_timesteps:
        return _nearest_timesteps(wanted, there, differences)
    missing = sorted(wanted.config.keys() - keys)
    if missing:
        differences.append(f"{there.name} has no {', '.join(missing)}, which {wanted.name!r} needs")
        return {}
    return {**wanted.config, **(TIMESTEP_SPACINGS["linspace"] if steps.curve_within_timesteps else {})}


def _nearest_timesteps(wanted: ScheduleType, there: DiffusersClass, differences: list[str]) -> dict[str, Any]:
    """The `timestep_spacing`, if the class has one, whose sigmas are the nearest to those of a schedule type."""
    steps, has_key = CLASS_STEPS[there.name], "timestep_spacing" in _defaults(there.name)
    column = SCHEDULE_TYPES_OF_TIMESTEPS.index("Uniform" if wanted.name == "Normal" else wanted.name)
    rows = steps.ratios if has_key else ["linspace"]
    row = min(rows, key=lambda row: steps.ratios[row][column])
    if steps.ratios[row][column] > SAME_SIGMAS:
        differences.append(_differing(steps.ratios[row][column]))
    if steps.strides and not row.startswith("leading"):
        differences.append(STRIDES)
    return dict(TIMESTEP_SPACINGS[row]) if has_key else {}


def _differing(ratio: float) -> str:
    return f"the sigmas differ by a factor of up to {ratio:.3f} (15 to 30 steps on Stable Diffusion's noise schedule)"


def nearest_with_class(entry: Entry) -> str:
    """The name of the nearest sampler that a scheduler class is."""
    nearest = CATALOG[entry.nearest]
    return nearest.name if nearest.diffusers is not None else nearest_with_class(nearest)


def from_diffusers(scheduler: Any) -> FromDiffusers:
    """The catalog's name for a scheduler of diffusers' interface, ours or theirs, or for its configuration.

    Args:
        scheduler: a live scheduler; its configuration as a mapping, with ``_class_name``; or the path of a folder with
            a ``scheduler_config.json``, or of such a file.

    Raises:
        UnknownNameError: a class that has no name in the catalog, or a value that its class does not know.
        ValueError: a configuration without ``_class_name``, or of something that is no scheduler.
    """
    config = configuration_of(scheduler)
    class_name = str(config.get("_class_name", "")).removeprefix("Flax")
    if not class_name:
        raise ValueError(
            "the configuration has no _class_name, so that nobody knows which scheduler it is of: add it, or give the "
            "scheduler itself."
        )
    class_name = SAME_CLASSES.get(class_name, class_name)
    if class_name in OF_ONE_MODEL:
        return _from_one_model(class_name, config)
    if class_name in FLOW_NAMES:
        return _from_flow(FLOW_NAMES[class_name], config)
    of_class = [entry for entry in CATALOG.values() if entry.diffusers and entry.diffusers.name == class_name]
    if not of_class:
        if not class_name.endswith("Scheduler"):
            raise ValueError(f"{class_name} is no scheduler: expected that of a pipeline, pipe.scheduler.")
        known = sorted({entry.diffusers.name for entry in CATALOG.values() if entry.diffusers} | {*FLOW_NAMES})
        raise unknown_name("scheduler class with a name in the catalog", class_name, known)
    full = {key: config.get(key, value) for key, value in _defaults(class_name).items()}
    best = min(of_class, key=lambda entry: len(_contradictions(entry, full)))
    there = _of(best)
    differences = [there.difference] if there.difference and not there.options else []
    for key, expected in _contradictions(best, full, (*SOLVER_KEYS, *OTHER_KEYS)).items():
        differences.append(f"{key} is {full[key]!r} there, and {expected!r} in {best.name!r}")
    if there.own_steps:
        return FromDiffusers(best.name, tuple(differences))
    if full.get("use_flow_sigmas"):
        differences.append("use_flow_sigmas takes flow matching's sigmas: sample on a FlowMatching noise schedule")
    options: dict[str, Any] = {"discard_next_to_last_sigma": False} if best.discards else {}
    options |= there.options
    if best.spaces_itself:
        return FromDiffusers(f"{best.name} Uniform", tuple(differences), MappingProxyType(options))
    schedule_type = _schedule_type(class_name, full, options, differences)
    _add_end(schedule_type, _end(class_name, full), options, differences)
    return FromDiffusers(f"{best.name} {schedule_type}", tuple(differences), MappingProxyType(options))


def _from_flow(name: str, config: Mapping[str, Any]) -> FromDiffusers:
    """The name of a class for flow matching alone. Its shift is of the spacing, which no name has."""
    differences = [FLOW_DIFFERENCE]
    changed = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None, "invert_sigmas": False}
    for key, default in changed.items():
        if config.get(key, default) != default:
            differences.append(f"{key} is {config[key]!r} there: see diffusolve.spacing.Shifted")
    if config.get("stochastic_sampling"):
        name = "LCM"
    if name == "Euler a" and config.get("eta") == 0.0:
        name = "Euler"
    if name == "Euler a":
        differences.append("with eta=1 it draws more noise in each step than the posterior of the forward process has")
    if name == "Flow SDE":
        name = "Dance SDE" if config.get("sde") == "dance" else name
        own = {"sde": "flow", "noise_level": 0.7, "discretization": "authors", **dict(CATALOG[name].solver.options)}
        for key, expected in own.items():
            if config.get(key, expected) != expected:
                differences.append(f"{key} is {config[key]!r} there, and {expected!r} in {name!r}")
    curve = next((key for key in CURVES if config.get(key)), None)
    kinds = [kind.name for kind in SCHEDULE_TYPES.values() if curve and kind.config == {curve: True}]
    return FromDiffusers(f"{name} {kinds[0] if kinds else 'Uniform'}", tuple(differences))


def _from_one_model(class_name: str, config: Mapping[str, Any]) -> FromDiffusers:
    """The name of a class whose noise schedule and steps are those of one family of models."""
    name, family = OF_ONE_MODEL[class_name]
    if config.get("algorithm_type") == "sde-dpmsolver++":
        name = f"{name.removesuffix(' SDE')} SDE"
    return FromDiffusers(name, (f"it is for {family}, whose noise schedule and steps no name has",))


def _of(entry: Entry) -> DiffusersClass:
    assert entry.diffusers is not None
    return entry.diffusers


@lru_cache(maxsize=64)
def _defaults(class_name: str) -> Mapping[str, Any]:
    """The configuration keys of a class of ours, with their defaults."""
    cls = scheduler_class(class_name)
    parameters = inspect.signature(cls.__init__).parameters
    return MappingProxyType({key: parameters[key].default for key in config_keys(cls)})


def _contradictions(entry: Entry, config: Mapping[str, Any], keys: tuple[str, ...] = SOLVER_KEYS) -> dict[str, Any]:
    """The keys among `keys` and the entry's own that have other values than the entry has, with the entry's values."""
    there = _of(entry)
    expected = {**_defaults(there.name), **there.config}
    compared = sorted({*keys, *there.config} - ENDS.keys())
    return {
        key: expected[key]
        for key in compared
        if key in config and key in expected and _differ(config[key], expected[key])
    }


def _differ(value: Any, expected: Any) -> bool:
    return bool((value or None) != (expected or None) if isinstance(expected, (tuple, list)) else value != expected)


def _schedule_type(class_name: str, config: Mapping[str, Any], options: dict[str, Any], differences: list[str]) -> str:
    """The schedule type of a configuration; what else there is to say is added to `options` and `differences`."""
    steps = CLASS_STEPS[class_name]
    spacing, offset = str(config.get("timestep_spacing", "linspace")), config.get("steps_offset", 0)
    if spacing not in TIMESTEP_SPACINGS:
        raise unknown_name("timestep_spacing", spacing, [row for row in TIMESTEP_SPACINGS if "+" not in row])
    curve = next((key for key in CURVES if config.get(key)), None)
    if curve is not None:
        options |= {key: config[key] for key in OF_THE_CURVE if config.get(key) is not None}
        if steps.curve_within_timesteps and spacing != "linspace" and not options.keys() >= set(OF_THE_CURVE):
            differences.append(
                f"its sigmas run between those of the first and the last of the {spacing!r} timesteps, and not from "
                "end to end of the training schedule"
            )
        return next(kind.name for kind in SCHEDULE_TYPES.values() if kind.config == {curve: True})
    row = "leading + 1" if spacing == "leading" and offset == 1 else spacing
    if steps.strides and spacing != "leading":
        differences.append(STRIDES)
    return _type_of_timesteps(steps, row, offset, options, differences)


def _type_of_timesteps(
    steps: ClassSteps, row: str, offset: int, options: dict[str, Any], differences: list[str]
) -> str:
    """The schedule type whose sigmas are the nearest to those of a row of the class's table."""
    if row.startswith("leading") and not steps.to_first:
        options |= {"to_first": False, "steps_offset": offset}
        return "Leading"
    ratios = steps.ratios[row]
    nearest = SCHEDULE_TYPES_OF_TIMESTEPS[ratios.index(min(ratios))]
    if row == "linspace" and steps.rounds:
        options["whole"] = True
    elif nearest == "Leading" and offset:
        options["steps_offset"] = offset
    elif min(ratios) > SAME_SIGMAS:
        differences.append(_differing(min(ratios)))
    return nearest


def _end(class_name: str, config: Mapping[str, Any]) -> str:
    """The end that a configuration says: "zero" or "sigma_min"."""
    for key, ends in ENDS.items():
        if key in config:
            if config[key] not in ends:
                raise unknown_name(key, str(config[key]), [str(value) for value in ends])
            return ends[config[key]]
    return CLASS_STEPS[class_name].end


def _add_end(schedule_type: str, end: str, options: dict[str, Any], differences: list[str]) -> None:
    """Add to `options` and `differences` that sampling ends at the sigma of timestep 0, if it does."""
    if end == "zero":
        return
    if schedule_type == "Uniform" or (
        schedule_type == "Leading" and not options.get("steps_offset") and options.get("to_first", True)
    ):
        differences.append(
            "its last step leads from timestep 0 to the sigma of timestep 0, so that it does not reach the data"
        )
        return
    options["final_sigma"] = end
    if schedule_type not in SCHEDULE_TYPES_OF_TIMESTEPS:
        differences.append("its last step leads from sigma_min to sigma_min, which the step of no name does")


def configuration_of(scheduler: Any) -> dict[str, Any]:
    """The configuration of a scheduler, with ``_class_name``; of a mapping, or of a file or folder, as it is there."""
    if isinstance(scheduler, (str, PathLike)):
        return _config_of_file(Path(scheduler))
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    if not hasattr(scheduler, "config"):
        raise TypeError(f"expected a scheduler, its configuration or a path, not {scheduler!r}.")
    return {"_class_name": type(scheduler).__name__, **scheduler.config}


def _config_of_file(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: expected a {CONFIG_FILE} or a folder with one.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}: expected a scheduler's configuration.")
    return config
