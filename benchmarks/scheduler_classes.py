"""The table of scheduler classes in docs/schedulers.md, made from them: python -m benchmarks.scheduler_classes."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusolve
from diffusolve.errors import NotPlannableError
from diffusolve.schedulers import CLASSES

PAGE = Path(__file__).parent.parent / "docs" / "schedulers.md"
BEGIN, END = "<!-- classes: begin -->", "<!-- classes: end -->"

TOKENS = ("Amused", "BlockRefinement", "DiscreteDDIM", "EntropyBound", "VQDiffusion")

ARGUMENTS: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"mask_token_id": 9},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.5, "tsr_sigma": 0.5},
    "VQDiffusionScheduler": {"num_vec_classes": 9},
}
"""Of classes whose constructor cannot do without."""

CALLS: dict[str, dict[str, Any]] = {
    "ConsistencyDecoderScheduler": {"num_inference_steps": 2},
    "HeliosDMDScheduler": {"num_inference_steps": 4, "stage_index": 0},
    "HeliosScheduler": {"num_inference_steps": 4, "stage_index": 0},
    "RFD4ProteinaScheduler": {"num_inference_steps": 20},
    "SCMScheduler": {"num_inference_steps": 2},
}
"""Arguments of `set_timesteps` for classes that do not take any number of steps alone."""


OF_IDS = "not linear: ids are drawn, and none stands between two of them"
WITHOUT_A_PLAN = {
    "KarrasVeScheduler": "linear, but the caller hands in the sigmas of each call",
    "RePaintScheduler": "DDIM's steps, then mixed with what is known by a mask, which is data",
    "ScoreSdeVeScheduler": "not linear: the length of a correction follows from the norms of score and noise",
    "ScoreSdeVpScheduler": "linear, but each sample of a batch has a time of its own",
    **{f"{name}Scheduler": OF_IDS for name in TOKENS},
}
"""Why no plan has the steps of these."""


def names() -> list[str]:
    """The scheduler classes of the package, those of tokens last."""
    tokens = [f"{name}Scheduler" for name in TOKENS]
    return [*sorted(set(CLASSES) - set(tokens)), *tokens]


def solver_of(scheduler: Any) -> str | None:
    """The name of the solver whose plan the scheduler walks; None if its steps are no plan's."""
    try:
        scheduler.set_timesteps(**CALLS.get(type(scheduler).__name__, {"num_inference_steps": 4}))
        plan = scheduler.plan
    except (AttributeError, NotPlannableError, TypeError, ValueError):
        return None
    return str(plan.solver).partition("(")[0]


def pipelines_with() -> dict[str, list[str]]:
    """Class -> the folders of diffusers' pipelines whose sources name it; empty where diffusers is not installed."""
    found: dict[str, list[str]] = {}
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        return found
    folder = Path(spec.origin).parent / "pipelines"
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if name.endswith("Scheduler") and room not in found.setdefault(name, []):
                found[name].append(room)
    return found


def a1111_name(scheduler: Any) -> str:
    """The name that the class's own docstring says A1111 has for it."""
    said = re.search(r"\(A1111: ([^)]*)\)", type(scheduler).__doc__ or "")
    return said[1].replace('"', "") if said else "-"


def rows() -> Iterator[str]:
    """The lines of the table."""
    used = pipelines_with()
    yield "| class | what it is | A1111's name | solver, or why no plan has the steps | pipelines |"
    yield "| --- | --- | --- | --- | --- |"
    for name in names():
        scheduler = getattr(diffusolve, name)(**ARGUMENTS.get(name, {}))
        solver = solver_of(scheduler)
        summary = re.sub(r" \(A1111: [^)]*\)", "", (scheduler.__doc__ or "").split("\n")[0]).rstrip(".")
        where = used.get(name, [])
        shown = ", ".join(where[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "") or "-"
        cells = (f"`{name}`", summary, a1111_name(scheduler), f"`{solver}`" if solver else WITHOUT_A_PLAN[name], shown)
        yield f"| {' | '.join(cells)} |"


def page() -> str:
    """docs/schedulers.md with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return "\n".join([f"{before}{BEGIN}", *rows(), f"{END}{after}"])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
