"""Names without what people spell differently."""

from __future__ import annotations

from diffusolve.errors import shown
from diffusolve.solvers import Solver

__all__ = ["folded"]


def folded(name: str) -> str:
    """`name` in lower case, letters and digits alone, "pp" for "++".

    Raises:
        TypeError: `name` is no text.
    """
    if not isinstance(name, str):
        of_solver = ", or diffusolve.Sampler(solver) for a solver of your own" if isinstance(name, Solver) else ""
        raise TypeError(
            f"{shown(name)} is no name: expected text, for example 'DPM++ 2M Karras' or 'karras'{of_solver}."
        )
    return "".join(character for character in name.casefold().replace("++", "pp") if character.isalnum())
