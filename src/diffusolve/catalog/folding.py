"""Names without what people spell differently."""

from __future__ import annotations

__all__ = ["folded"]


def folded(name: str) -> str:
    """`name` in lower case, letters and digits alone, "pp" for "++"."""
    return "".join(character for character in name.casefold().replace("++", "pp") if character.isalnum())
