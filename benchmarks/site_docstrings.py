"""Docstrings for the documentation site: what Sphinx calls roles is code there, and so are sessions of Python."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`(?:[^`<]*<)?~?([^`>]+)>?`")


SESSION = re.compile(r"(?:^>>> .*\n(?:^(?!\s*$).*\n?)*)+", re.MULTILINE)


class AsMarkdown(griffe.Extension):
    """Writes ``:class:`~diffusolve.noise.Grid``` as code, and puts fences around what begins with ``>>>``."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(lambda role: f"`{role[1].removeprefix('diffusolve.')}`", obj.docstring.value)
            text = SESSION.sub(lambda lines: f"```pycon\n{lines[0].rstrip()}\n```\n", text.replace("``", "`") + "\n")
            obj.docstring.value = text.rstrip()
