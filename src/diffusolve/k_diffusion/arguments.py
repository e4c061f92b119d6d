"""The arguments that the functions of k-diffusion have in common, told in the docstring of each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from textwrap import fill
from types import MappingProxyType
from typing import Any

__all__ = ["ARGUMENTS", "explain_arguments"]

ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "model": "a denoiser, called with samples ``x0 + sigma * noise``, their sigma, shape (batch,), and "
        "`extra_args`; predicts x0. Those of ComfyUI's models on flow matching are "
        "``(1 - sigma) * x0 + sigma * noise``.",
        "x": "the sample to start from, at ``sigmas[0]``, shape (batch, ...); the result has its precision.",
        "sigmas": "shape (steps + 1,), above 0 but for the last, which may be 0. They may rise, but for the SDE's "
        "multistep samplers: a deterministic sampler then adds the noise that it sees in the sample, and an ancestral "
        "one renews all of it. A step between equal sigmas changes nothing. With fewer than two nothing is done.",
        "n": "the number of evaluations.",
        "sigma_min, sigma_max": "the sigmas that the sampler ends and begins at.",
        "extra_args": "keyword arguments for the model.",
        "callback": "called in each step with a dictionary: the sample `x`, the number of the step `i`, the noise "
        "level `sigma` where it begins, `sigma_hat` after churn, and the model's prediction `denoised`.",
        "disable": "show no progress bar; None shows one on a terminal.",
        "eta": "how much noise a stochastic sampler replaces; 0 is the ODE, 1 the SDE.",
        "s_noise": "multiplies the noise.",
        "noise_sampler": "called with the noise levels that a step leads from and to; returns standard normal noise "
        "like `x`. The default draws from PyTorch's global generator, for the SDE samplers along a Brownian path "
        "seeded by it (needs torchsde).",
        "s_churn, s_tmin, s_tmax": "how much the noise level is raised before each step, times the number of steps, "
        "and the range of noise levels where it is (Karras et al. 2022, algorithm 2).",
        "order, max_order": "of the method; the first steps of a multistep method have a lower one.",
        "max_stage": "the order, 1, 2 or 3; the first steps have a lower one.",
        "noise_scaler": "None: the solver has named ones (:obj:`diffusolve.solvers.er_sde`).",
        "solver_type": 'how a step uses two data predictions: "midpoint" or "heun" of DPM-Solver++(2M); of SEEDS-2 '
        '"phi_2", which integrates the line through both exactly, or "phi_1", which takes its value in the middle.',
        "r": "where the second evaluation of a step is, as a part of it in log sigma, above 0 and up to 1.",
        "r_1, r_2": "where the second and the third evaluation of a step are, as parts of it in log sigma.",
        "ge_gamma": "the slope is ``ge_gamma`` times the new one and ``1 - ge_gamma`` times that of the step before.",
        "cfg_pp": "renoise with the noise that the model sees without guidance (CFG++).",
        "deis_mode": 'the form of DEIS, "tab".',
        "tau_func": "tau at the sigma where a step ends: 0 is the ODE, 1 the SDE. When missing, 1 between 20 and 80 % "
        "of the training time that ComfyUI's models tell, and 0 elsewhere.",
        "predictor_order, corrector_order": "the number of predictions used, fewer at both ends; a corrector of 0 "
        "corrects nothing.",
        "use_pece": "evaluate the corrected sample too.",
        "simple_order_2": "integrate lines as if the weight of their slope were constant, as in the authors' code.",
        "rtol, atol": "relative and absolute tolerance for the difference between this order and one less.",
        "h_init": "the first step in log sigma.",
        "pcoeff, icoeff, dcoeff": "the controller's coefficients.",
        "accept_safety": "a step is accepted when the controller would shrink it by no more than this factor.",
        "return_info": "return a dictionary of the counts of steps and evaluations too.",
    }
)
"""The arguments' names, together where they are explained together -> the explanation."""


def explain_arguments(function: Callable[..., Any]) -> None:
    """Put what :data:`ARGUMENTS` says of the arguments of `function` into its docstring, before Raises and Returns."""
    names = [*inspect.signature(function).parameters]
    found = {}
    for together, text in ARGUMENTS.items():
        there = [name for name in together.split(", ") if name in names]
        if there:
            entry = f"{', '.join(there)}: {text}"
            found[names.index(there[0])] = fill(entry, 116, initial_indent="    ", subsequent_indent="        ")
    entries = [entry for _, entry in sorted(found.items())]
    summary, *sections = re.split(r"\n\n(?=Raises:|Returns:)", inspect.cleandoc(function.__doc__ or ""))
    function.__doc__ = "\n\n".join([summary, "\n".join(["Args:", *entries]), *sections])
