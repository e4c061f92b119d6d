"""The account of a learned plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from diffusolve.plan import Plan

__all__ = ["Candidate", "LearningReport"]


class Candidate(NamedTuple):
    """A plan that may be chosen: how it was made, and its error on the validation pairs."""

    name: str
    plan: Plan
    validation: float


@dataclass(frozen=True)
class LearningReport:
    """The account of what was learned, by noises that were used for nothing else.

    Errors are root mean square distances from the exact solution.

    Attributes:
        steps: rounds of evaluations of the plan, as many as it was to have.
        evaluations: of the plan, in all rounds.
        start: the plan that it had to win against: the best of the catalog, or the one given.
        start_error: of that.
        way: "fit" or "refined"; "kept start" where nothing learned was better by the validation pairs.
        error, spread: of the plan, and the standard error of that, from how samples differ.
        validation: errors of the candidates on the validation pairs.
        judged: plans of the catalog that were judged in as many evaluations.
        catalog: number of evaluations -> name and error of the best of the catalog, until one is as good.
        pairs, test_pairs: how many learned and tested.
        teacher_steps: of the exact solution.
        teacher_apart: its distance from one of twice the steps, as a part of the samples' size.
        seed: of all noises.
        start_levels: log-SNR of the start's evaluations.
        stopped: why it ended early; empty if it did not.
        seconds: the time that it took.
    """

    steps: int
    evaluations: int
    start: str
    start_error: float
    way: str
    error: float
    spread: float
    validation: Mapping[str, float]
    catalog: Mapping[int, tuple[str, float]]
    pairs: int
    test_pairs: int
    teacher_steps: int
    teacher_apart: float
    seed: int
    judged: int = 0
    start_levels: tuple[float, ...] = ()
    stopped: str = ""
    seconds: float = 0.0

    @property
    def kept_start(self) -> bool:
        """True if nothing that was learned was better."""
        return self.way == "kept start"

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON can hold it."""
        told = asdict(self)
        del told["start_levels"]  # of which one may be infinite
        told["catalog"] = {str(count): list(best) for count, best in self.catalog.items()}
        return told

    def __str__(self) -> str:
        best = f", the best of {self.judged} in the catalog" if self.judged and self.start != "the given start" else ""
        lines = [f"{self.start} in {self.steps} evaluations{best}: {self.start_error:.4f} from the exact solution"]
        if self.kept_start:
            lines.append("nothing learned was better on the noises to learn and to choose by: the start is kept")
        else:
            change = f"{self.error / self.start_error:.2f} of it" if self.start_error else "of 0"
            size = f", {self.evaluations} evaluations in {self.steps} rounds" if self.evaluations > self.steps else ""
            lines.append(f"learned ({self.way}{size}): {self.error:.4f} ± {self.spread:.4f}, {change}")
        lines += [
            f"best of the catalog in {count}: {error:.4f}, {name}" for count, (name, error) in self.catalog.items()
        ]
        if self.catalog:
            count, (name, error) = max(self.catalog.items())
            if error > self.error:
                lines.append(f"nothing in the catalog is as good in {count} evaluations or fewer")
            elif not self.kept_start:
                lines.append(
                    f"as good as {name} in {count}" if count > self.steps else f"no better than {name} in {count}"
                )
        lines.append(
            f"{self.pairs} pairs, tested on {self.test_pairs} others; teacher of {self.teacher_steps} steps "
            f"({self.teacher_apart:.1e} from twice as many); {self.seconds:.0f} s"
        )
        if self.stopped:
            lines.append(f"ended early: {self.stopped}; the best until then is kept")
        return "\n".join(lines)
