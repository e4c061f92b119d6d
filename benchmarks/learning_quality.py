"""What distances do not say of learned plans, for docs/learning.md: ``python -m benchmarks.learning_quality``.

Samples of all ten digits, by the plans that ``python -m benchmarks.learning`` keeps and by hand-made samplers from the
same noise: the share in which a classifier sees the digit that was asked for, and the Frechet distance of its 45
pairwise decisions to those of the real digits. Then the plan learned at guidance 2 at other scales, and in bfloat16.
One that is learned now, for five of the ten classes, is judged on the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sklearn.svm import SVC

from benchmarks.digits import pixels
from benchmarks.learning import DOCS, FOLDER
from benchmarks.which_sampler import frechet, replace_between
from diffusolve.catalog import sampler
from diffusolve.denoisers import Denoiser, load_digits_data
from diffusolve.denoisers.digits_network import NO_CLASS, load_digits_network
from diffusolve.learning import Guided, learn
from diffusolve.learning.judge import best_of_catalog, judge
from diffusolve.learning.model import Model
from diffusolve.learning.teacher import follow
from diffusolve.learning.whole import LIKELY
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.sampling import sample, start

FILE = Path(__file__).parent / "results" / "learned_quality.json"

EXACT = ("DPM++ 3M Exponential", 40)
"""A sampler and its steps that stand for the exact solution."""

ASKED_AT_ONCE = 500


def network(guidance: float = 1.0, dtype: torch.dtype = torch.float32) -> Guided:
    """The digits network, called with labels; in half precision by autocast."""
    own = load_digits_network()

    def asked(x: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            output: torch.Tensor = own(x.float(), timestep, labels)
        return output.to(x.dtype)

    return Guided(Denoiser(asked, "v_prediction", SD15), torch.tensor([NO_CLASS]), guidance)


def judged_plans(counts: list[int]) -> Iterator[tuple[str, Plan]]:
    """The learned plans, the catalog's best by distance in as many evaluations, and what many people use."""
    for count in counts:
        path = FOLDER / f"digits-{count}.json"
        hand_made = {"DPM++ 2M Karras", "UniPC Karras"}
        if path.is_file():
            plan = Plan.from_json(path.read_text(encoding="utf-8"))
            yield "learned", plan
            hand_made.add(plan.extra["learned"]["catalog"][str(count)][0])
        for name in sorted(hand_made):
            yield name, sampler(name).plan(SD15, "v_prediction", count)
    name, steps = EXACT
    yield f"exact ({name}, {steps})", sampler(name).plan(SD15, "v_prediction", steps)


def quality(count: int, evaluations: list[int]) -> list[dict[str, Any]]:
    """Name, evaluations, share recognised and Frechet distance to the data's features of `count` samples."""
    images, labels = load_digits_data()
    known = SVC(gamma=0.001, decision_function_shape="ovo").fit(pixels(images), labels)
    data = known.decision_function(pixels(images))
    rows = []
    for name, plan in judged_plans(evaluations):
        made = made_by(plan, count)
        asked = np.arange(count) % 10
        share = float(np.mean(known.predict(made) == asked))
        distance = frechet(known.decision_function(made), data)
        rows.append({"sampler": name, "evaluations": plan.nfe, "recognised": share, "frechet": distance})
        print(rows[-1], flush=True)
    return rows


def made_by(plan: Plan, count: int) -> np.ndarray:
    """Pixels of samples of all digits in turn."""
    asked, parts = torch.arange(count) % 10, []
    own = network()
    for first in range(0, count, ASKED_AT_ONCE):
        labels = asked[first : first + ASKED_AT_ONCE]
        x = start(plan, torch.empty(len(labels), 1, 8, 8), list(range(first, first + len(labels))))
        parts.append(sample(lambda x, t, labels=labels: own(x, t, labels), x, plan).numpy())
    return pixels(np.concatenate(parts))


def transfer(plan: Plan, pairs: int) -> list[dict[str, Any]]:
    """The plan's distance at other guidance scales, and in bfloat16, beside the best of likely samplers."""
    rows = []
    labels = torch.arange(pairs) % 10
    for guidance, dtype in ((1.5, torch.float32), (2.0, torch.float32), (3.0, torch.float32), (2.0, torch.bfloat16)):
        whole = Model(network(guidance), torch.empty(64, 1, 8, 8))
        exact = follow(whole, range(500, 500 + pairs), (labels,), 48)
        model = Model(network(guidance, dtype), torch.empty(64, 1, 8, 8, dtype=dtype))
        learned = judge(model, plan, exact)
        best = best_of_catalog(model, plan.nfe, exact, names=LIKELY, last=3)[0]
        told = {"guidance": guidance, "precision": str(dtype).removeprefix("torch."), "evaluations": plan.nfe}
        rows.append({**told, "learned": learned.error, "best": best.error, "of": best.name})
        print(rows[-1], flush=True)
    return rows


def other_classes(pairs: int) -> list[dict[str, Any]]:
    """Distances for classes that a plan was learned for and for others, beside one that was learned for all."""
    like, parts = torch.empty(64, 1, 8, 8), {"0 to 4": torch.arange(5), "5 to 9": torch.arange(5, 10)}
    for_all = Plan.from_json((FOLDER / "digits-5.json").read_text(encoding="utf-8"))
    some = {"checkpointing": False, "clock": time.process_time}
    for_five = learn(network(), like, 5, conditions=(parts["0 to 4"],), **some)
    rows = []
    for name, part in parts.items():
        model = Model(network(), like)
        exact = follow(model, range(500, 500 + pairs), (part[torch.arange(pairs) % len(part)],), 48)
        best = best_of_catalog(model, 5, exact, names=LIKELY, last=3)[0]
        errors = {"five": judge(model, for_five, exact).error, "ten": judge(model, for_all, exact).error}
        rows.append({"classes": name, **errors, "best": best.error, "of": best.name})
        print(rows[-1], flush=True)
    return rows


def tables(told: dict[str, Any]) -> str:
    """The page's three tables."""
    lines = ["| sampler | evaluations | recognised | Fréchet distance |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row['sampler']} | {row['evaluations']} | {row['recognised']:.1%} | {row['frechet']:.3g} |"
        for row in told["quality"]
    ]
    lines += ["", f"{told['count']:,} samples each.", ""]
    lines += [
        "| guidance | precision | learned at guidance 2 | best of fourteen likely samplers |",
        "| ---: | --- | ---: | --- |",
    ]
    lines += [
        f"| {row['guidance']:g} | {row['precision']} | {row['learned']:.4f} | {row['best']:.4f}, {row['of']} |"
        for row in told["transfer"]
    ]
    lines += [
        "",
        "| classes | learned for 0 to 4 | learned for all ten | best of fourteen likely samplers |",
        "| --- | ---: | ---: | --- |",
    ]
    lines += [
        f"| {row['classes']} | {row['five']:.4f} | {row['ten']:.4f} | {row['best']:.4f}, {row['of']} |"
        for row in told["classes"]
    ]
    return "\n".join(lines)


def main(
    count: Annotated[int, typer.Option(help="Samples for each row.")] = 2000,
    pairs: Annotated[int, typer.Option(help="Noises for the distances of the plan that is carried elsewhere.")] = 96,
    page: Annotated[bool, typer.Option("--page", help="Measure nothing, write the page from what is kept.")] = False,
) -> None:
    """Measure, keep, and write the page."""
    torch.set_num_threads(1)
    if not page:
        plan = Plan.from_json((FOLDER / "digits-g2-5.json").read_text(encoding="utf-8"))
        told = {"count": count, "transfer": transfer(plan, pairs), "classes": other_classes(pairs)}
        told["quality"] = quality(count, [3, 5, 6, 8, 10])
        FILE.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    told = json.loads(FILE.read_text(encoding="utf-8"))
    where = DOCS / "learning.md"
    where.write_text(replace_between(where.read_text(encoding="utf-8"), "quality", tables(told)), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
