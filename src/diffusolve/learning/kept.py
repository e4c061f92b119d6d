"""Work in progress of learning, kept in a folder: what was stopped goes on, and other numbers of steps share it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import array_like, is_floating, no_gradients, to_numpy, widen
from diffusolve.files import replacing, write_atomically
from diffusolve.learning.model import Model, Rows, root_mean_square
from diffusolve.learning.table import Table, place
from diffusolve.learning.teacher import Pairs
from diffusolve.randomness import draw_normal

__all__ = ["Fits", "Kept"]

SAME = 1e-2
"""A network whose outputs are no farther from those of the one before, as a part of their size, is the same: enough for
other machines and precisions."""

Said = TypeVar("Said")


class Kept:
    """A folder in which everything dear is kept once it is made; without one, everything is made.

    What is kept has a digest of all that it follows from in its file's name: seeds, conditions, teacher, numbers of
    pairs, shapes. The network itself has no digest: its outputs for one noise are compared.

    Args:
        folder: made if need be; None keeps nothing.
        model: the network.
        conditions: what it learns for.

    Raises:
        ValueError: the folder is of another network.
        NotADirectoryError: it is a file.
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path | None, model: Model, conditions: Rows) -> None:
        self.folder, self.model = folder, model
        if folder is None:
            return
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file: give a folder to keep the work in.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(f"cannot keep the work in {folder}: {error.strerror}.") from None
        file = folder / "network.npy"
        probe = self._probe(conditions)
        if not np.isfinite(probe).all():
            raise ValueError("the network returns NaN or infinity for noise in the middle of the levels.")
        if file.is_file():
            known = np.load(file)
            fits = known.shape == probe.shape
            apart = root_mean_square(known - probe) / (root_mean_square(known) or 1.0) if fits else 1.0
            if not apart <= SAME:
                raise ValueError(
                    f"{folder} holds the work on another network, or other guidance: its outputs are {apart:.1%} away "
                    "from this one's. Give another folder."
                )
        else:
            with replacing(file) as partial, partial.open("wb") as opened:
                np.save(opened, probe)

    def _probe(self, conditions: Rows) -> npt.NDArray[Any]:
        """The network's output for a noise of its own, in the middle of the levels."""
        model = self.model
        point = place(model.noise_schedule, model.scaling, float(model.scaling.sigma_from_log_snr(0.0)))
        x = draw_normal([1], widen(model.like[:1]))
        scale = model.prediction.conversion(point).scale
        with no_gradients(x):
            return to_numpy(model.output(x, scale, point.timestep, tuple(row[:1] for row in conditions)))

    def file(self, kind: str, ending: str, *key: Any) -> Path | None:
        """The path of what follows from `key`, values that JSON can hold or arrays; None if nothing is kept."""
        if self.folder is None:
            return None
        return self.folder / f"{kind}-{self.digest(*key)}.{ending}"

    def digest(self, *key: Any) -> str:
        """Sixteen letters that stand for `key` and what the network was trained with."""
        like, model = self.model.like, self.model
        whole = [str(model.noise_schedule), model.prediction.description, list(like.shape[1:]), str(like.dtype), *key]
        text = json.dumps(whole, default=_digest_of, sort_keys=True)
        return sha256(text.encode()).hexdigest()[:16]

    def said(self, kind: str, make: Callable[[], Said], *key: Any) -> Said:
        """The values, such as JSON can hold, that `make` returns, or returned before."""
        file = self.file(kind, "json", *key)
        if file is None:
            return make()
        if file.is_file():
            known: Said = json.loads(file.read_text(encoding="utf-8"))
            return known
        made = make()
        write_atomically(file, json.dumps(made).encode())
        return made

    def pairs(self, make: Callable[[int], Pairs], rows: Rows, count: int, *key: Any) -> Pairs:
        """`count` pairs with conditions `rows`: those of `key` that are kept, and what `make` returns of the rest.

        `make` is called with the number of the first; whole batches are kept when there are to be more.
        """
        file = self.file("pairs", "npz", *key)
        if file is None:
            return make(0)
        known = self._pairs_in(file, rows) if file.is_file() else None
        if known is not None and known.count >= count:
            return known.first(count)
        there = 0 if known is None else known.count // self.model.batch * self.model.batch
        made = known.first(there).and_(make(there)) if known is not None and there else make(0)
        arrays: dict[str, Any] = {
            "begun": to_numpy(made.begun),
            "sigmas": made.sigmas,
            "states": np.stack([to_numpy(state) for state in made.states]),
            "slopes": np.stack([to_numpy(state) for state in made.slopes]),
            "final": to_numpy(made.final),
        }
        with replacing(file) as partial, partial.open("wb") as opened:
            np.savez(opened, **arrays)
        return made

    def _pairs_in(self, file: Path, rows: Rows) -> Pairs:
        """The pairs in `file`, of which the first have conditions `rows`."""
        like = widen(self.model.like)
        with np.load(file) as known:
            begun, final = (array_like(known[name], like) for name in ("begun", "final"))
            states, slopes = ([array_like(one, like) for one in known[name]] for name in ("states", "slopes"))
            return Pairs(begun, rows, known["sigmas"], states, slopes, final)

    def fits(self, *key: Any) -> Fits:
        """The fits on pairs that follow from `key`."""
        return Fits(self.file("fits", "jsonl", *key))


class Fits:
    """The weights and the errors of fits: a search goes over those that are known again without the network.

    Args:
        file: a line of JSON for each; None for none.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.known: dict[str, tuple[list[list[float]], float]] = {}
        if file is None or not file.is_file():
            return
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # cut off
            write_atomically(file, "".join(lines[:-1]).encode())
        for line in lines:
            if line.endswith("\n"):
                key, weights, error = json.loads(line)
                self.known[key] = weights, error

    def or_made(
        self, make: Callable[[], tuple[Table, float]], start: Table, follows_from: list[Any]
    ) -> tuple[Table, float]:
        """A fit's table, on the levels of `start`, and error: what `make` returns, or returned before.

        They are known by all that the fit `follows_from`, as JSON has it.
        """
        key = sha256(json.dumps(follows_from).encode()).hexdigest()[:16]
        if key in self.known:
            weights, error = self.known[key]
            return replace(start, weights=np.array(weights)), error
        table, error = make()
        self.known[key] = table.weights.tolist(), error
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps([key, *self.known[key]]) + "\n")
        return table, error


def _digest_of(value: Any) -> Any:
    """The shape and digest of an array, for the text of a key."""
    if not hasattr(value, "shape"):
        raise TypeError(f"{value!r} is no part of a key")
    array = to_numpy(widen(value) if is_floating(value) else value)
    return [list(array.shape), sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
