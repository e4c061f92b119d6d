"""The rooms of the package and the imports between them, drawn from the code: ``python -m benchmarks.imports``."""

from __future__ import annotations

import ast
import io
import subprocess
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    pass

ROOT = Path(__file__).parent.parent
PACKAGE = "src/diffusolve"
PICTURES = ROOT / "docs" / "images"
FRONT = "front door"
"""The package itself (`import diffusolve`), through which a name may be taken from any room."""


def imports_of(code: str) -> set[str]:
    """Every module that `code` imports, by a statement wherever it stands or by name at run time.

    From the package itself its members count, ``diffusolve.Run``; the package alone, ``diffusolve``, where nobody can
    tell which (``getattr(diffusolve, name)``, ``import_module("diffusolve")``).
    """
    tree = ast.parse(code)
    found, called = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "diffusolve":
                    called.add(alias.asname or alias.name)
                else:
                    found.add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            of_package = node.module == "diffusolve"
            found |= {f"diffusolve.{alias.name}" for alias in node.names} if of_package else {node.module}
        elif (name := _looked_up(node)).split(".")[0] == "diffusolve":
            found.add(name)
    return found | _members(tree, called)


def _looked_up(node: ast.AST) -> str:
    """The module that `node` imports or finds by its name, as far as that is written there; empty if it does not."""
    names: list[ast.expr] = []
    if isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
        names = node.args[:1]
    elif isinstance(node, ast.Subscript) and _last_name(node.value) == "modules":
        names = [node.slice]
    parts = [part for name in names for part in (name.values if isinstance(name, ast.JoinedStr) else [name])]
    text = parts[0].value if parts and isinstance(parts[0], ast.Constant) else ""
    return text.rstrip(".") if isinstance(text, str) else ""


def _last_name(node: ast.expr) -> str:
    """The last of the names in ``a.b.c``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _members(tree: ast.AST, called: set[str]) -> set[str]:
    """What is used of the package, imported under the names `called`: its members, or the package itself."""
    members = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_name(node.value, called)]
    whole = [node for node in ast.walk(tree) if _is_name(node, called)]
    found = {f"diffusolve.{node.attr}" for node in members}
    return found | {"diffusolve"} if len(whole) > len(members) or (called and not whole) else found


def _is_name(node: ast.AST, called: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in called


class House(NamedTuple):
    """The rooms of the package: how many lines each has, and which other rooms each imports from."""

    lines: Mapping[str, int]
    imports: Mapping[str, frozenset[str]]


def sources(revision: str | None = None) -> dict[str, str]:
    """Path within the package -> content of its files, Python and C, as they are or as they were at `revision`."""
    if revision is None:
        paths = (path for path in (ROOT / PACKAGE).rglob("*") if path.suffix in (".py", ".c", ".h"))
        return {path.relative_to(ROOT / PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}
    command = ["git", "archive", revision, PACKAGE]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files.getmembers():
            content = files.extractfile(member) if member.name.endswith((".py", ".c", ".h")) else None
            if content is not None:
                found[member.name.removeprefix(f"{PACKAGE}/")] = content.read().decode()
    return found


def house(files: Mapping[str, str]) -> House:
    """The rooms that `files` are in. The package's own file is no room; it imports nothing until it is asked."""
    rooms = {path.split("/")[0].removesuffix(".py") for path in files if path != "__init__.py"}
    lines: Counter[str] = Counter()
    imports: dict[str, set[str]] = {room: set() for room in rooms}
    for path, content in files.items():
        room = path.split("/")[0].removesuffix(".py")
        if room not in rooms:
            continue
        lines[room] += content.count("\n")
        if path.endswith(".py"):
            modules = [name.split(".") for name in imports_of(content) if name.split(".")[0] == "diffusolve"]
            imports[room] |= {parts[1] if parts[1:] and parts[1] in rooms else FRONT for parts in modules}
            if ["diffusolve", "__version__"] in modules and ["diffusolve"] not in modules:
                imports[room].discard(FRONT)
    return House(lines, {room: frozenset(known - {room}) for room, known in imports.items()})


def layers(imports: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """The rooms in layers: each below all that it imports from, the first layer imports from none.

    Raises:
        ValueError: rooms import each other in a circle.
    """
    placed: dict[str, int] = {}
    while len(placed) < len(imports):
        ready = [room for room in imports if room not in placed and imports[room] <= placed.keys()]
        if not ready:
            raise ValueError(f"a circle among {', '.join(sorted(imports.keys() - placed.keys()))}.")
        placed |= {room: 1 + max((placed[other] for other in imports[room]), default=-1) for room in ready}
    return [sorted(room for room in placed if placed[room] == layer) for layer in range(max(placed.values()) + 1)]


def direct(imports: Mapping[str, frozenset[str]]) -> list[tuple[str, str]]:
    """The imports (who, from whom) that do not follow from others by way of a third room."""
    reach: dict[str, set[str]] = {}
    for layer in layers(imports):
        for room in layer:
            reach[room] = set(imports[room]).union(*(reach[other] for other in imports[room]))
    return [
        (room, other)
        for room, known in imports.items()
        for other in sorted(known)
        if not any(other in reach[third] for third in known - {other})
    ]
