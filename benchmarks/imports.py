"""The rooms of the package and the imports between them, drawn from the code: ``python -m benchmarks.imports``."""

from __future__ import annotations

import ast
import io
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    rooms = sorted({path.split("/")[0].removesuffix(".py") for path in files if not path.startswith("__")})
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


WIDTH, HEIGHT = 2.2, 1.6
"""Distances of rooms in a layer and of layers, in inches."""
BOX = (1.8, 0.62)
"""Width and height of a room, in inches."""
SWEEPS = 40


class Drawing(NamedTuple):
    """Where the rooms stand, and the ways of the arrows between them as points from who imports to whom."""

    places: Mapping[str, tuple[float, float]]
    ways: Sequence[Sequence[tuple[float, float]]]


def laid_out(imports: Mapping[str, frozenset[str]]) -> Drawing:
    """Rooms in layers, arrows pointing up; an arrow past a layer has a place of its own in it, as a room has.

    In each layer places are in the order of the mean of those that they are connected with (the barycentre heuristic of
    Sugiyama, Tagawa and Toda 1981), and then moved towards that mean as far as their neighbours let them. Of all sweeps
    over the layers that with the fewest crossings is taken.
    """
    order: list[list[str]] = layers(imports)
    level = {room: index for index, layer in enumerate(order) for room in layer}
    chains = []
    for room, other in direct(imports):
        bends = [f"{room} > {other} > {between}" for between in range(level[room] - 1, level[other], -1)]
        for name, between in zip(bends, range(level[room] - 1, level[other], -1), strict=True):
            order[between].append(name)
        chains.append([room, *bends, other])
    joined: dict[str, list[str]] = {name: [] for layer in order for name in layer}
    for chain in chains:
        for one, other in pairwise(chain):
            joined[one].append(other)
            joined[other].append(one)
    x = {name: index - (len(layer) - 1) / 2 for layer in order for index, name in enumerate(layer)}
    best = (inf, x)
    for sweep in range(SWEEPS):
        for layer in order if sweep % 2 else reversed(order):
            wanted = {name: _mean([x[other] for other in joined[name]], x[name]) for name in layer}
            layer.sort(key=lambda name: wanted[name])
            x |= _spread([(name, wanted[name], 1.0 if name in imports else 0.5) for name in layer])
        best = min(best, (_cost(chains, x, level), dict(x)), key=lambda found: found[0])
    x = best[1]
    at = {name: (WIDTH * x[name], -HEIGHT * index) for index, layer in enumerate(order) for name in layer}
    return Drawing({room: at[room] for room in imports}, [[at[name] for name in chain] for chain in chains])


def _cost(chains: Sequence[Sequence[str]], x: Mapping[str, float], level: Mapping[str, int]) -> float:
    """Crossings of arrows, and a little for how far they go sideways."""
    pieces = [(level[c[0]] - i, x[a], x[b]) for c in chains for i, (a, b) in enumerate(pairwise(c))]
    crossings = sum(
        one[0] == other[0] and (one[1] - other[1]) * (one[2] - other[2]) < 0 for one, other in combinations(pieces, 2)
    )
    return crossings + 0.1 * sum(abs(a - b) for _, a, b in pieces)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _spread(wanted: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Places near those `wanted`, in their order, each with its width between itself and the next.

    Places that would overlap form a block, which stands where its members want to be on average.
    """
    blocks: list[tuple[list[str], list[float], float, float]] = []  # names, offsets, wanted beginning, width
    for name, place, width in wanted:
        names, offsets, begin, whole = [name], [width / 2], place - width / 2, width
        while blocks and blocks[-1][2] + blocks[-1][3] > begin:
            before, their_offsets, their_begin, their_width = blocks.pop()
            begin = (len(before) * their_begin + len(names) * (begin - their_width)) / (len(before) + len(names))
            offsets = their_offsets + [their_width + offset for offset in offsets]
            names, whole = before + names, their_width + whole
        blocks.append((names, offsets, begin, whole))
    return {
        name: begin + offset for names, offsets, begin, _ in blocks for name, offset in zip(names, offsets, strict=True)
    }


def draw(axes: Axes, drawn: House) -> None:
    """Draw rooms as boxes with their lines, and an arrow to each room that one imports from."""
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Curve

    imports = dict(drawn.imports)
    if any(FRONT in known for known in imports.values()):
        imports[FRONT] = frozenset()
    drawing = laid_out(imports)
    width, height = BOX
    for way in drawing.ways:
        (x0, y0), (x1, y1) = way[0], way[-1]
        points = [(x0, y0 + height / 2), *way[1:-1], (x1, y1 - height / 2 - 0.04)]
        vertices, codes = [points[0]], [Curve.MOVETO]
        for (ax, ay), (bx, by) in pairwise(points):
            middle = (ay + by) / 2
            vertices += [(ax, middle), (bx, middle), (bx, by)]
            codes += [Curve.CURVE4] * 3
        front = FRONT in imports and drawing.places[FRONT] == way[-1]
        arrow = FancyArrowPatch(
            path=Curve(vertices, codes),
            arrowstyle="-|>",
            mutation_scale=11,
            linewidth=1.1,
            color="#c0392b" if front else "#5d6d7e",
            zorder=1,
        )
        axes.add_patch(arrow)
    for room, (x, y) in drawing.places.items():
        colours = ("#fdedec", "#c0392b") if room == FRONT else ("#eaf2f8", "#2e5d86")
        corner = (x - width / 2, y - height / 2)
        box = FancyBboxPatch(
            corner, width, height, "round,pad=0,rounding_size=0.1", facecolor=colours[0], edgecolor=colours[1], zorder=2
        )
        axes.add_patch(box)
        axes.text(x, y + 0.1, room, ha="center", va="center", fontsize=10.5, weight="bold", zorder=3)
        size = f"{drawn.lines[room]:,} lines" if room in drawn.lines else "any room"
        axes.text(x, y - 0.16, size, ha="center", va="center", fontsize=8, color="#566573", zorder=3)
    xs, ys = zip(*(point for way in [*drawing.ways, drawing.places.values()] for point in way), strict=True)
    axes.set(xlim=(min(xs) - 1, max(xs) + 1), ylim=(min(ys) - 0.6, max(ys) + 0.6), aspect="equal")
    axes.axis("off")


def picture(drawn: House, path: Path) -> None:
    """Write the drawing of the rooms to a file."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    draw(axes, drawn)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    figure.set_size_inches(0.85 * (right - left), 0.85 * (top - bottom))
    figure.savefig(path, dpi=100)


def table(before: House, now: House) -> Iterable[str]:
    """Lines of each room at the earlier revision and now, as Markdown."""
    yield "| room | lines before | lines now |"
    yield "| --- | ---: | ---: |"
    for room in sorted(before.lines.keys() | now.lines.keys()):
        yield f"| `{room}` | {before.lines.get(room, 0):,} | {now.lines.get(room, 0):,} |"
    yield f"| all | {sum(before.lines.values()):,} | {sum(now.lines.values()):,} |"


def main(
    before: Annotated[str | None, typer.Option(help="A revision of git to compare with.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Print the lines of each room, then and now.")] = False,
) -> None:
    """Draw the rooms as they are into docs/images/rooms.png, and as they were at a revision into rooms-before.png."""
    now = house(sources())
    then = house(sources(before)) if before is not None else now
    picture(now, PICTURES / "rooms.png")
    if before is not None:
        picture(then, PICTURES / "rooms-before.png")
    if lines:
        print(*table(then, now), sep="\n")


if __name__ == "__main__":
    typer.run(main)
