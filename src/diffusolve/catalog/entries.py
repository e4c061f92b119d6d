"""The samplers: what each is called in the four worlds, and the solver that it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Any

from diffusolve.drawing import html_table
from diffusolve.solvers import (
    Solver,
    deis,
    dpm_2,
    dpm_adaptive,
    dpm_fast,
    dpmpp_2s_ancestral,
    dpmpp_multistep,
    dpmpp_sde,
    dpmpp_singlestep,
    er_sde,
    euler,
    exp_heun_2_x0,
    flow_sde,
    gradient_estimation,
    heun,
    heunpp2,
    ipndm,
    ipndm_v,
    lcm,
    lms,
    pndm,
    res_multistep,
    res_singlestep,
    restart,
    sa_solver,
    seeds_2,
    seeds_3,
    tcd,
    ud10_ab,
    unipc,
)

__all__ = ["ALIASES", "CATALOG", "DiffusersClass", "Entry"]


class Catalog(Mapping[str, "Entry"]):
    """Samplers by their names, in an order that does not change."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        first = ", ".join(map(repr, list(self)[:3]))
        return f"<Catalog of {len(self)} samplers: {first}, ...>"

    def _repr_html_(self) -> str:
        rows = [
            (
                entry.order,
                name,
                ", ".join(entry.comfyui),
                entry.k_diffusion or "",
                entry.diffusers.name if entry.diffusers else "",
            )
            for name, entry in self.items()
        ]
        headings = ("order", "name", "ComfyUI", "k-diffusion", "diffusers")
        return html_table(headings, rows, f"{len(self)} samplers", text=4, most=len(rows))


@dataclass(frozen=True)
class DiffusersClass:
    """A scheduler class of diffusers' interface and the configuration that makes it this sampler.

    Attributes:
        name: the class.
        config: the keys that matter.
        difference: what is different about it; nothing when empty.
        options: of the sampler with which there is no difference.
        few_steps: of the sampler with which it is what the class is in fewer than 15 steps too.
        in_diffusers: whether diffusers has the class too.
        own_steps: it places its steps by a rule of its own, which no schedule type is.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    difference: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    few_steps: Mapping[str, Any] = field(default_factory=dict, hash=False)
    in_diffusers: bool = True
    own_steps: bool = False


@dataclass(frozen=True)
class Entry:
    """A sampler by all its names.

    Attributes:
        name: what A1111 calls it, or the people of the field where A1111 does not have it.
        solver: the algorithm with its options.
        order: of convergence: of the ODE's solution, or of the distribution for stochastic samplers.
        a1111: whether A1111 has it, under this name.
        comfyui: ComfyUI's names.
        k_diffusion: the function of ``k_diffusion.sampling``.
        diffusers: the scheduler class.
        automatic: the schedule type that A1111 takes for it when none is chosen.
        discards: A1111 leaves out its last sigma but one ("discard next-to-last sigma").
        aliases: other spellings.
        nearest: where a world has no such sampler, the name of the nearest that all have.
        on_schedules: schedule types -> the solver's options there, where others are better than elsewhere.
    """

    name: str
    solver: Solver
    order: int
    a1111: bool = True
    comfyui: tuple[str, ...] = ()
    k_diffusion: str | None = None
    diffusers: DiffusersClass | None = None
    automatic: str = "Uniform"
    discards: bool = False
    aliases: tuple[str, ...] = ()
    nearest: str = "DPM++ 2M"
    on_schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def solver_on(self, schedule_type: str | None) -> Solver:
        """The algorithm with its options on a schedule type; on steps of the caller's if it is None."""
        return self.solver.with_options(**self.on_schedules.get(schedule_type or "", {}))

    @property
    def spaces_itself(self) -> bool:
        """True if only the ends of a spacing matter to the sampler."""
        return self.solver.adaptive or self.solver.function is dpm_fast.function

    @property
    def paper(self) -> str:
        """The source that the sampler comes from."""
        cfg_pp = "; with guidance of Chung et al. 2024, CFG++, algorithm 2"
        return self.solver.paper + cfg_pp * bool(dict(self.solver.options).get("cfg_pp"))

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling but the name itself."""
        function = () if self.k_diffusion is None else (self.k_diffusion,)
        return (*self.comfyui, *function, *self.aliases)


DPMPP_2M = dpmpp_multistep.with_options(lower_order_final=False)
SHORT_STEPS = {"longest_step": 1.5, "longest_log_snr": 1.2}
"""Longer steps are of first order: with them UniPC is worse than Euler on most schedule types, or much worse."""

ANY_STEPS = dict.fromkeys(SHORT_STEPS, inf)
LONG_STEPS = "its steps are of full order however long they are"

LOWER_FINAL = {"lower_order_final": None}
"""DPM-Solver++ as diffusers' class has it: with lower orders at the end of short runs."""

SDE_CONFIG = {"algorithm_type": "sde-dpmsolver++"}

ENTRIES = (
    Entry(
        "DPM++ 2M",
        DPMPP_2M,
        2,
        comfyui=("dpmpp_2m",),
        k_diffusion="sample_dpmpp_2m",
        diffusers=DiffusersClass("DPMSolverMultistepScheduler", few_steps=LOWER_FINAL),
        automatic="Karras",
        aliases=("k_dpmpp_2m",),
    ),
    Entry(
        "DPM++ SDE",
        dpmpp_sde,
        2,
        comfyui=("dpmpp_sde", "dpmpp_sde_gpu"),
        k_diffusion="sample_dpmpp_sde",
        diffusers=DiffusersClass("DPMSolverSDEScheduler"),
        automatic="Karras",
        aliases=("k_dpmpp_sde",),
    ),
    Entry(
        "DPM++ 2M SDE",
        DPMPP_2M.with_options(eta=1.0),
        2,
        comfyui=("dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
        k_diffusion="sample_dpmpp_2m_sde",
        diffusers=DiffusersClass("DPMSolverMultistepScheduler", SDE_CONFIG, few_steps=LOWER_FINAL),
        automatic="Exponential",
        aliases=("k_dpmpp_2m_sde",),
    ),
    Entry(
        "DPM++ 2M SDE Heun",
        DPMPP_2M.with_options(eta=1.0, solver_type="heun"),
        2,
        comfyui=("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
        diffusers=DiffusersClass(
            "DPMSolverMultistepScheduler", {**SDE_CONFIG, "solver_type": "heun"}, few_steps=LOWER_FINAL
        ),
        automatic="Exponential",
        aliases=("k_dpmpp_2m_sde_heun",),
        nearest="DPM++ 2M SDE",
    ),
    Entry(
        "DPM++ 2S a",
        dpmpp_2s_ancestral,
        1,
        comfyui=("dpmpp_2s_ancestral",),
        k_diffusion="sample_dpmpp_2s_ancestral",
        diffusers=DiffusersClass("DPMSolverSinglestepAncestralScheduler", in_diffusers=False),
        automatic="Karras",
        aliases=("k_dpmpp_2s_a", "DPM++ 2S ancestral"),
        nearest="DPM++ 2S",
    ),
    Entry(
        "DPM++ 3M SDE",
        dpmpp_multistep.with_options(
            eta=1.0, order=3, solver_type="heun", third_order="authors", lower_order_final=False
        ),
        2,
        comfyui=("dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
        k_diffusion="sample_dpmpp_3m_sde",
        diffusers=DiffusersClass(
            "DPMSolverMultistepScheduler",
            {**SDE_CONFIG, "solver_order": 3, "solver_type": "heun"},
            "its third-order terms are weighted otherwise",
            options={"third_order": "diffusers_sde"},
            few_steps=LOWER_FINAL,
        ),
        automatic="Exponential",
        discards=True,
        aliases=("k_dpmpp_3m_sde",),
        nearest="DPM++ 2M SDE",
    ),
    Entry(
        "Euler a",
        euler.with_options(eta=1.0),
        1,
        comfyui=("euler_ancestral",),
        k_diffusion="sample_euler_ancestral",
        diffusers=DiffusersClass("EulerAncestralDiscreteScheduler"),
        aliases=("k_euler_a", "k_euler_ancestral", "Euler ancestral"),
    ),
    Entry(
        "Euler",
        euler,
        1,
        comfyui=("euler",),
        k_diffusion="sample_euler",
        diffusers=DiffusersClass("EulerDiscreteScheduler"),
        aliases=("k_euler",),
    ),
    Entry(
        "LMS",
        lms,
        4,
        comfyui=("lms",),
        k_diffusion="sample_lms",
        diffusers=DiffusersClass("LMSDiscreteScheduler"),
        aliases=("k_lms",),
    ),
    Entry(
        "Heun",
        heun,
        2,
        comfyui=("heun",),
        k_diffusion="sample_heun",
        diffusers=DiffusersClass("HeunDiscreteScheduler"),
        aliases=("k_heun",),
    ),
    Entry(
        "DPM2",
        dpm_2,
        2,
        comfyui=("dpm_2",),
        k_diffusion="sample_dpm_2",
        diffusers=DiffusersClass("KDPM2DiscreteScheduler"),
        automatic="Karras",
        discards=True,
        aliases=("k_dpm_2",),
    ),
    Entry(
        "DPM2 a",
        dpm_2.with_options(eta=1.0),
        1,
        comfyui=("dpm_2_ancestral",),
        k_diffusion="sample_dpm_2_ancestral",
        diffusers=DiffusersClass("KDPM2AncestralDiscreteScheduler"),
        automatic="Karras",
        discards=True,
        aliases=("k_dpm_2_a", "DPM2 ancestral"),
    ),
    Entry(
        "DPM fast",
        dpm_fast,
        3,
        comfyui=("dpm_fast",),
        k_diffusion="sample_dpm_fast",
        diffusers=DiffusersClass("DPMSolverFastScheduler", in_diffusers=False),
        aliases=("k_dpm_fast",),
        nearest="DPM++ 2M",
    ),
    Entry(
        "DPM adaptive",
        dpm_adaptive,
        3,
        comfyui=("dpm_adaptive",),
        k_diffusion="sample_dpm_adaptive",
        aliases=("k_dpm_ad",),
        nearest="DPM++ 2M",
    ),
    Entry("Restart", restart, 2, automatic="Karras", nearest="Heun"),
    Entry(
        "DDIM",
        euler,
        1,
        comfyui=("ddim",),
        diffusers=DiffusersClass("DDIMScheduler", {"clip_sample": False}),
        automatic="DDIM",
    ),
    Entry("DDIM CFG++", euler.with_options(cfg_pp=True), 1, automatic="DDIM", nearest="DDIM"),
    Entry(
        "PLMS",
        pndm.with_options(start="improved_euler"),
        2,
        diffusers=DiffusersClass("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}),
        automatic="DDIM",
        nearest="LMS",
    ),
    Entry(
        "UniPC",
        unipc.with_options(order=3, variant="bh1", **SHORT_STEPS),
        4,
        comfyui=("uni_pc",),
        diffusers=DiffusersClass(
            "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1"}, LONG_STEPS, options=ANY_STEPS
        ),
        aliases=("unipc_bh1",),
    ),
    Entry(
        "LCM",
        lcm,
        1,
        comfyui=("lcm",),
        diffusers=DiffusersClass(
            "LCMScheduler",
            difference="its timesteps are some of those of the distillation, and predictions go through the boundary "
            "condition of consistency models",
            own_steps=True,
        ),
        aliases=("k_lcm",),
        nearest="Euler a",
    ),
    # What A1111 does not have.
    Entry(
        "TCD",
        tcd,
        1,
        a1111=False,
        diffusers=DiffusersClass(
            "TCDScheduler",
            difference="its timesteps are some of those of the distillation",
            own_steps=True,
        ),
        nearest="LCM",
    ),
    Entry(
        "UniPC bh2",
        unipc.with_options(order=3, **SHORT_STEPS),
        4,
        a1111=False,
        comfyui=("uni_pc_bh2",),
        diffusers=DiffusersClass(
            "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}, LONG_STEPS, options=ANY_STEPS
        ),
        nearest="UniPC",
    ),
    Entry(
        "DPM++ 3M",
        dpmpp_multistep.with_options(order=3),
        3,
        a1111=False,
        diffusers=DiffusersClass(
            "DPMSolverMultistepScheduler",
            {"solver_order": 3},
            "it weighs the second derivative by half",
            options={"third_order": "authors"},
        ),
        aliases=("dpmpp_3m",),
    ),
    Entry(
        "DPM++ 2S",
        dpmpp_singlestep,
        2,
        a1111=False,
        diffusers=DiffusersClass("DPMSolverSinglestepScheduler", {"solver_order": 2}),
        aliases=("dpmpp_2s",),
        nearest="DPM++ 2S a",
    ),
    Entry(
        "DEIS",
        deis,
        3,
        a1111=False,
        comfyui=("deis",),
        diffusers=DiffusersClass(
            "DEISMultistepScheduler",
            {"solver_order": 3},
            "its polynomials are in log rho",
            options={"polynomial": "log_rho"},
        ),
        nearest="UniPC",
        on_schedules={kind: {"polynomial": "time"} for kind in ("Uniform", "Normal", "DDIM", "Leading", "KL Optimal")},
    ),
    Entry(
        "DDPM",
        euler.with_options(eta=1.0),
        1,
        a1111=False,
        comfyui=("ddpm",),
        diffusers=DiffusersClass("DDPMScheduler", {"clip_sample": False}),
        nearest="Euler a",
    ),
    Entry("Heun++ 2", heunpp2, 1, a1111=False, comfyui=("heunpp2",), nearest="Heun"),
    Entry(
        "iPNDM",
        ipndm,
        2,
        a1111=False,
        comfyui=("ipndm",),
        diffusers=DiffusersClass(
            "IPNDMScheduler", difference="it is for v-diffusion, and here for flow matching", own_steps=True
        ),
        nearest="LMS",
    ),
    Entry("iPNDM-v", ipndm_v, 4, a1111=False, comfyui=("ipndm_v",), nearest="LMS"),
    Entry("RES multistep", res_multistep, 2, a1111=False, comfyui=("res_multistep",), aliases=("res_2m",)),
    Entry(
        "RES multistep a",
        res_multistep.with_options(eta=1.0),
        2,
        a1111=False,
        comfyui=("res_multistep_ancestral",),
        nearest="DPM++ 2M SDE",
    ),
    Entry(
        "Gradient estimation", gradient_estimation, 1, a1111=False, comfyui=("gradient_estimation",), nearest="Euler"
    ),
    Entry(
        "ER-SDE",
        er_sde.with_options(third_order="authors"),
        2,
        a1111=False,
        comfyui=("er_sde",),
        nearest="DPM++ 3M SDE",
    ),
    Entry("Euler CFG++", euler.with_options(cfg_pp=True), 1, a1111=False, comfyui=("euler_cfg_pp",), nearest="Euler"),
    Entry(
        "Euler a CFG++",
        euler.with_options(eta=1.0, cfg_pp=True),
        1,
        a1111=False,
        comfyui=("euler_ancestral_cfg_pp",),
        nearest="Euler a",
    ),
    Entry(
        "DPM++ 2M CFG++",
        DPMPP_2M.with_options(cfg_pp=True),
        2,
        a1111=False,
        comfyui=("dpmpp_2m_cfg_pp",),
        automatic="Karras",
    ),
    Entry(
        "DPM++ 2S a CFG++",
        dpmpp_2s_ancestral.with_options(cfg_pp=True),
        1,
        a1111=False,
        comfyui=("dpmpp_2s_ancestral_cfg_pp",),
        automatic="Karras",
        nearest="DPM++ 2S a",
    ),
    Entry(
        "RES multistep CFG++",
        res_multistep.with_options(cfg_pp=True),
        2,
        a1111=False,
        comfyui=("res_multistep_cfg_pp",),
        nearest="RES multistep",
    ),
    Entry(
        "RES multistep a CFG++",
        res_multistep.with_options(eta=1.0, cfg_pp=True),
        2,
        a1111=False,
        comfyui=("res_multistep_ancestral_cfg_pp",),
        nearest="RES multistep a",
    ),
    Entry(
        "Gradient estimation CFG++",
        gradient_estimation.with_options(cfg_pp=True),
        1,
        a1111=False,
        comfyui=("gradient_estimation_cfg_pp",),
        nearest="Gradient estimation",
    ),
    # ComfyUI's extrapolates the noise by a tenth of the step as well, with which more steps lead to no solution.
    Entry(
        "CFG++ UD10 AB", ud10_ab.with_options(cfg_pp=True), 1, a1111=False, comfyui=("cfgpp_ud10_ab",), nearest="Euler"
    ),
    Entry("SEEDS-2", seeds_2, 2, a1111=False, comfyui=("seeds_2",), nearest="DPM++ SDE"),
    Entry("SEEDS-3", seeds_3, 2, a1111=False, comfyui=("seeds_3",), nearest="DPM++ SDE"),
    Entry(
        "SA-Solver",
        sa_solver,
        2,
        a1111=False,
        comfyui=("sa_solver",),
        diffusers=DiffusersClass(
            "SASolverScheduler",
            {"predictor_order": 3, "corrector_order": 4},
            "orders fall at the end, steps may be of any length, and its polynomials of second order are simpler",
        ),
        nearest="DPM++ 2M SDE",
    ),
    Entry(
        "SA-Solver PECE",
        sa_solver.with_options(use_pece=True),
        2,
        a1111=False,
        comfyui=("sa_solver_pece",),
        nearest="DPM++ 2M SDE",
    ),
    # RES4LYF's, a collection of nodes for ComfyUI, whose res_2m is RES multistep.
    Entry("RES 2S", res_singlestep, 2, a1111=False, aliases=("res_2s",), nearest="Exponential Heun"),
    Entry("RES 3S", res_singlestep.with_options(order=3), 3, a1111=False, aliases=("res_3s",), nearest="RES 2S"),
    Entry(
        "RES 3M",
        dpmpp_multistep.with_options(order=3, solver_type="heun", lower_order_final=False),
        3,
        a1111=False,
        aliases=("res_3m",),
        nearest="RES multistep",
    ),
    Entry("Exponential Heun", exp_heun_2_x0, 2, a1111=False, comfyui=("exp_heun_2_x0",), nearest="DPM++ 2S"),
    Entry(
        "Exponential Heun SDE",
        exp_heun_2_x0.with_options(eta=1.0),
        2,
        a1111=False,
        comfyui=("exp_heun_2_x0_sde",),
        nearest="DPM++ SDE",
    ),
    Entry(
        "Flow SDE",
        flow_sde,
        1,
        a1111=False,
        diffusers=DiffusersClass("FlowMatchSDEDiscreteScheduler", in_diffusers=False, own_steps=True),
        aliases=("flow_sde", "Flow-GRPO"),
        nearest="Euler a",
    ),
    Entry(
        "Dance SDE",
        flow_sde.with_options(sde="dance", noise_level=0.3),
        1,
        a1111=False,
        diffusers=DiffusersClass(
            "FlowMatchSDEDiscreteScheduler", {"sde": "dance", "noise_level": 0.3}, in_diffusers=False, own_steps=True
        ),
        aliases=("dance_sde", "DanceGRPO"),
        nearest="Euler a",
    ),
)

CATALOG: Mapping[str, Entry] = Catalog(ENTRIES)
"""Name -> sampler. The names of k-diffusion's functions have those functions' numbers."""

ALIASES: Mapping[str, str] = MappingProxyType({name: entry.name for entry in ENTRIES for name in entry.names})
"""Other spellings -> the name in :data:`CATALOG`."""
