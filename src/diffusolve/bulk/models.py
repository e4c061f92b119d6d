"""Models as a job needs them: called on rows, always on the same number of them at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import Array, is_torch, no_gradients, to_numpy
from diffusolve.bulk.rows import Row
from diffusolve.denoisers.named import (
    check_model,
    classes_of,
    conditional_denoiser,
    gaussian_of_digits,
    is_named,
    label_of,
    shape_of,
)
from diffusolve.errors import shown
from diffusolve.noise import NoiseSchedule
from diffusolve.noise import noise_schedule as schedule_called
from diffusolve.prediction import Prediction
from diffusolve.prediction import prediction as prediction_called

__all__ = ["Model", "ModelLike", "as_pixels", "load_model", "name_of"]

CALL_SIZE = 16
PIPELINE_CALL_SIZE = 4

PROMPTS = 256
"""Prompts whose embeddings a worker keeps."""


@dataclass(frozen=True)
class Model:
    """A network, and all that is to be known of it to make rows.

    The network is always called on `call_size` rows of one shape; where there are fewer, some are there twice. Kernels
    of PyTorch and others are chosen by the shapes of arrays, so that this makes the rows' numbers independent of each
    other in most networks: all but those that compute across the batch. Whether it does in this one,
    ``diffusolve generate --verify`` tells.

    Attributes:
        network: called with samples (call_size, ...), timesteps (call_size,) and a list of as many conditions; returns
            outputs of the samples' shape.
        noise_schedule, prediction: what it was trained with, or their names.
        shape: of a sample; or a function that takes a row's (height, width), or None, and returns it, or raises
            ValueError where the model makes no samples of this size.
        condition: takes a row and returns its condition, or raises ValueError for a row that asks for what there is
            not; called twice for each row, before anything runs and when its turn comes.
        unconditional: the condition that stands for none, for guidance; None if the model takes no guidance.
        decode: takes samples (1, ...) and returns images (1, 1 or 3, height, width) in [-1, 1]; None if there are none.
        like: an array with the precision and device of the samples; float32 PyTorch tensors on the CPU when missing.
        call_size: the number of rows that the network is called on. Another number may be other bits.
        identity: text that differs if the network's numbers do. Jobs go on with the same one only.
    """

    network: Callable[[Any, Any, Sequence[Any]], Any]
    noise_schedule: NoiseSchedule
    prediction: Prediction
    shape: tuple[int, ...] | Callable[[tuple[int, int] | None], tuple[int, ...]]
    condition: Callable[[Row], Any]
    unconditional: Any = None
    decode: Callable[[Any], Any] | None = None
    like: Any = None
    call_size: int = CALL_SIZE
    identity: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_schedule", schedule_called(self.noise_schedule))
        object.__setattr__(self, "prediction", prediction_called(self.prediction))
        if self.like is None:
            import torch

            object.__setattr__(self, "like", torch.empty(0))
        if isinstance(self.call_size, bool) or not isinstance(self.call_size, int) or self.call_size < 1:
            raise ValueError(f"call_size is {self.call_size!r}: expected a whole number, at least 1.")

    def shape_for(self, row: Row) -> tuple[int, ...]:
        """The shape of the row's sample.

        Raises:
            ValueError: the model makes none of the size that the row asks for.
        """
        if callable(self.shape):
            return tuple(self.shape(row.size))
        if row.size is not None and row.size != self.shape[-2:]:
            own = "x".join(map(str, self.shape[-2:]))
            raise ValueError(f"size is {row.size[0]}x{row.size[1]}: this model makes samples of {own} only.")
        return tuple(self.shape)

    def check(self, row: Row) -> None:
        """Raise ValueError if the model cannot make `row`."""
        self.shape_for(row)
        self.condition(row)
        if row.guidance != 1.0 and self.unconditional is None:
            raise ValueError(f"guidance is {row.guidance:g}: this model takes none, leave it out.")

    def pixels(self, sample: Array) -> npt.NDArray[np.uint8] | None:
        """The picture of a sample, shape (height, width) or (height, width, 3); None if it is none."""
        if self.decode is None:
            return None
        with no_gradients(sample):
            return as_pixels(to_numpy(self.decode(sample[None, ...]))[0])


def as_pixels(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """`image`, shape (1 or 3, height, width), -1 black and 1 white, as bytes; None for other shapes."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        return None
    shades = np.rint((np.clip(image.astype(np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)
    return shades[0] if len(shades) == 1 else np.ascontiguousarray(shades.transpose(1, 2, 0))


ModelLike = str | Callable[[], Model]
"""A name that `diffusolve sample --model` takes, or a function without arguments that makes a :class:`Model`.

Workers in other processes get the function by its name: it is to stand at the top of a module.
"""


def name_of(model: ModelLike) -> str:
    """The model as jobs name it."""
    if isinstance(model, str):
        return model
    module, name = getattr(model, "__module__", type(model).__module__), getattr(model, "__qualname__", None)
    return f"{module}:{name or type(model).__qualname__}"


def load_model(model: ModelLike, device: str = "cpu", call_size: int | None = None) -> Model:
    """The :class:`Model` that a name or a function stands for; one of a name on `device`.

    Raises:
        UnknownNameError: no model has this name.
        ValueError: PyTorch has no such device here.
        TypeError: the function makes something else than a :class:`Model`.
    """
    if isinstance(model, str):
        check_model(model)
        check_device(device)
        found = _named(model, device)
    elif callable(model):
        found = model()
        if not isinstance(found, Model):
            raise TypeError(f"{name_of(model)} made a {type(found).__name__}: expected a diffusolve.bulk.Model.")
    else:
        raise TypeError(f"model is a {type(model).__name__}: expected a name, or a function that makes a Model.")
    return found if call_size is None else replace(found, call_size=call_size)


def check_device(device: str) -> None:
    """Raise ValueError unless PyTorch can make tensors on `device`."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch that was built without CUDA
        raise ValueError(f"device is {shown(device)}, which PyTorch does not have here: {error}") from None


def _of_pipeline(name: str, device: str) -> Model:
    """A pipeline of diffusers: prompts are encoded where they are needed, those used last kept."""
    import torch

    from diffusolve.denoisers.pipeline import open_pipeline, parts_of

    opened = parts_of(open_pipeline(name), name)
    for module in opened.modules:
        module.to(device).eval()
    encode = None if opened.encode is None else lru_cache(PROMPTS)(opened.encode)

    def call(x: Any, timesteps: Any, conditions: Sequence[Any]) -> Any:
        if encode is not None:
            return opened.network(x, timesteps, torch.cat([encode(text) for text in conditions]))
        labels = None if opened.classes is None else torch.tensor(conditions, device=x.device)
        return opened.network(x, timesteps, labels)

    def condition(row: Row) -> Any:
        given = {"prompt": row.prompt, "class": row.label}
        wanted = "prompt" if encode is not None else None if opened.classes is None else "class"
        for field, value in given.items():
            if (value is None) == (field == wanted):
                raise ValueError(f"{field} is {shown(value)}: the pipeline {name} takes {wanted or 'no condition'}.")
        if opened.classes is None:
            return row.prompt
        label = label_of(name, str(row.label))
        if not 0 <= label < opened.classes:
            raise ValueError(f"class {label}: the pipeline {name} has the classes 0 to {opened.classes - 1}.")
        return label

    def shape(size: tuple[int, int] | None) -> tuple[int, ...]:
        if size is None:
            return opened.shape
        if any(length % opened.scale for length in size):
            raise ValueError(f"size is {size[0]}x{size[1]}: expected multiples of {opened.scale} for {name}.")
        return opened.shape[0], *(length // opened.scale for length in size)

    return Model(
        network=call,
        noise_schedule=opened.network.noise_schedule,
        prediction=opened.network.prediction,
        shape=shape,
        condition=condition,
        unconditional=None if encode is None else "",
        decode=opened.decode,
        like=torch.empty(0, device=device, dtype=next(opened.modules[0].parameters()).dtype),
        call_size=PIPELINE_CALL_SIZE,
        identity="-".join(weights_of(module) for module in opened.modules),
    )


def _named(name: str, device: str) -> Model:
    if not is_named(name):
        return _of_pipeline(name, device)
    import torch

    like = torch.empty(0, device=device)
    denoiser: Any = gaussian_of_digits() if name == "gaussian" else conditional_denoiser(name)
    if is_torch_module(network := _innermost(denoiser)):
        network.to(device)
    count = len(classes_of(name))

    def call(x: Any, timesteps: Any, labels: Sequence[int]) -> Any:
        if not count:
            return denoiser(x, timesteps)
        return denoiser(x, timesteps, torch.tensor(labels, device=x.device))

    def condition(row: Row) -> int:
        if row.prompt is not None:
            raise ValueError(f"the {name} model takes no prompt.")
        return count if row.label is None else label_of(name, row.label)

    return Model(
        network=call,
        noise_schedule=denoiser.noise_schedule,
        prediction=denoiser.prediction,
        shape=shape_of(name),
        condition=condition,
        unconditional=count or None,
        decode=lambda samples: samples,
        like=like,
        identity=weights_of(network),
    )


def _innermost(denoiser: Any) -> Any:
    """The network inside of wrappers."""
    for name in ("network", "denoiser"):
        if (inner := vars(denoiser).get(name)) is not None:
            return _innermost(inner)
    return denoiser


def is_torch_module(network: Any) -> bool:
    """True of a `torch.nn.Module`."""
    return hasattr(network, "state_dict") and is_torch(next(iter(network.parameters()), None))


def weights_of(network: Any) -> str:
    """A digest of the weights of a `torch.nn.Module`; the name of the class of anything else."""
    if not is_torch_module(network):
        return type(network).__name__
    sha = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(name.encode() + str(tensor.dtype).encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(dtype=_bytes()).numpy().data)
    return sha.hexdigest()[:16]


def _bytes() -> Any:
    import torch

    return torch.uint8
