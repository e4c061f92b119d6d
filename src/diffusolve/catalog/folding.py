"""Names without what people spell differently."""

from __future__ import annotations

from diffusolve.errors import shown

__all__ = ["folded"]


def folded(name: str) -> str:
    """`name` in lower case, letters and digits alone, "pp" for "++".

    Raises:
        TypeError: `name` is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"{shown(name)} is no name: expected text, for example 'DPM++ 2M Karras' or 'karras'.")
    return "".join(character for character in name.casefold().replace("++", "pp") if character.isalnum())
