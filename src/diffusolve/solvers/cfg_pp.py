"""CFG++: guided data, and the noise that the network sees without guidance."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from diffusolve.noise import Point
from diffusolve.solvers.requests import Evaluate, Value

__all__ = ["evaluate", "renoised"]


def evaluate(x: Value, s: Point, cfg_pp: bool) -> Generator[Evaluate, Any, tuple[Value, Value]]:
    """Run the model on `x` at `s`; answered by the sample to go on from and the data prediction.

    With `cfg_pp` the model has a guided and an unguided data prediction, and the sample to go on from is made of the
    guided data and of the noise that is left of `x` without the unguided ones,
    ``s.alpha * guided + s.sigma * (x - s.alpha * unguided) / s.sigma``. A first-order step from there is that of Chung
    et al. 2024, CFG++, algorithm 2 (https://arxiv.org/abs/2406.08070), for any (alpha, sigma): the data with guidance,
    renoised without. What a solver makes of its history it makes of the guided data. Where both predictions are equal
    nothing changes.

    How far a run is led towards the condition depends on its number of steps, since each adds a full difference of the
    two predictions: there is no differential equation that it approaches. The guidance scale is the paper's lambda,
    from 0 (no condition) to 1; the paper sets 0.2, 0.4, 0.6, 0.8 and 1 beside 2, 5, 7.5, 9 and 12.5 of
    guidance without CFG++, with 50 steps of DDIM.

    The sample can be used until the next evaluation; keep it for longer.
    """
    x, data, *unguided = yield Evaluate(x, s, unguided=cfg_pp)
    return renoised(x, s, data, unguided), data


def renoised(x: Value, s: Point, data: Value, unguided: Sequence[Value]) -> Value:
    """The sample `x` at `s` with the guided `data` in place of the `unguided` ones, of which there may be none."""
    for without in unguided:
        x = x + s.alpha * (data - without)
    return x
