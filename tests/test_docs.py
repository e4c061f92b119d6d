"""The pages: links lead somewhere, names are those in the code, advice is what was measured."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import slips
from benchmarks.gallery import anchor, command, description
from benchmarks.names import PAGE as NAMES
from benchmarks.names import filled
from benchmarks.rooms import ROOMS
from benchmarks.scheduler_classes import PAGE as CLASSES_PAGE
from benchmarks.scheduler_classes import page as classes_page
from benchmarks.which_sampler import MEASUREMENTS, digits, frechet, frechet_row, markdown, replace_between
from diffusolve.catalog import CATALOG, Entry
from diffusolve.denoisers import DatasetDenoiser, load_digits_data
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.schedulers import CLASSES, scheduler_class
from diffusolve.solvers import euler
from tests.tables import for_each

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)}


# Links


@for_each("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page_id(page)} links to {link}"
        if fragment:
            assert fragment in anchors(target), f"{page_id(page)} links to {link}"


def test_every_scheduler_class_stands_in_the_row_of_its_base() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|`]+) \|$", page, re.MULTILINE))
    wrong = []
    for name in CLASSES:
        base = next(cls.__name__ for cls in scheduler_class(name).__mro__ if cls.__name__ in rows)
        if name.removesuffix("Scheduler") not in rows[base].strip().split(", "):
            wrong.append(f"{name}: {base}")
    assert not wrong


def test_every_page_has_its_place_on_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f": {page.name}\n" not in site]
    assert not missing, "pages that mkdocs.yml does not list under nav"


def test_the_new_pages_can_be_found_from_the_readme() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(ROOT / "README.md"))
    assert {f"docs/{name}.md" for name in ("gallery", "which-sampler", "schedulers", "names", "k-diffusion")} <= set(
        links
    )


# Names of the code


def code_in(page: Path) -> list[str]:
    """What is set as code in the text of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


@lru_cache(maxsize=1)
def repository() -> frozenset[str]:
    """The paths of files and folders, with all that they end in."""
    folders = [ROOT / name for name in ("src", "tests", "benchmarks", "docs", "examples", "integrations")]
    found = [path.relative_to(ROOT).parts for folder in folders for path in (folder, *folder.rglob("*"))]
    found += [(path.name,) for path in ROOT.iterdir()]
    return frozenset("/".join(parts[index:]) for parts in found for index in range(len(parts)))


@for_each("page", PAGES, ids=page_id)
def test_every_file_and_module_in_the_text_is_there(page: Path) -> None:
    wrong = []
    for code in code_in(page):
        if re.fullmatch(r"[\w/-]+\.(py|c|h|md|mjs)|[a-z_]+/([a-z_]+/?)*", code):
            there = code.rstrip("/") in repository()
        else:
            there = re.fullmatch(r"[a-z_]+(\.\w+)+", code) is None or is_in_the_package(code)
        wrong += [] if there else [code]
    assert wrong == []


def is_in_the_package(code: str) -> bool:
    """Whether ``room.name...`` names something, or does not begin with a room."""
    room, *names = code.removeprefix("diffusolve.").split(".")
    if room not in ROOMS or (room == "plan" and names[0] in dir(Plan) + list(Plan.__annotations__)):  # a variable
        return True
    found: Any = importlib.import_module(f"diffusolve.{room}")
    for name in names:
        if not hasattr(found, name) and importlib.util.find_spec(f"{found.__name__}.{name}") is None:
            return False
        found = getattr(found, name, None) or importlib.import_module(f"{found.__name__}.{name}")
    return True


@pytest.mark.parametrize(
    ("code", "there"),
    [
        ("backends.Run", True),
        ("backends.run.Run", True),
        ("backends.runn", False),
        ("plan.stages", True),
        ("np.x", True),
    ],
)
def test_a_name_is_looked_up_in_its_room(code: str, there: bool) -> None:
    assert is_in_the_package(code) is there


# The scheduler classes


def test_the_table_of_scheduler_classes_is_what_the_classes_say() -> None:
    pytest.importorskip("diffusers", reason="the table tells which pipelines of diffusers name a class")
    assert classes_page() == CLASSES_PAGE.read_text(encoding="utf-8"), "run python -m benchmarks.scheduler_classes"


# The names


def test_the_page_of_names_is_what_the_catalog_says() -> None:
    page = NAMES.read_text(encoding="utf-8")
    assert filled(page) == page, "run python -m benchmarks.names"
    assert all(f"| {name} |" in page for name in CATALOG)


# The gallery


def test_every_sampler_stands_in_the_gallery_with_its_picture() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert list(sections) == list(CATALOG), "run python -m benchmarks.gallery"
    for name, section in sections.items():
        (picture,) = re.findall(r"!\[.*\]\((.*)\)", section)
        with Image.open(ROOT / "docs" / picture) as opened:
            assert opened.width > 500, name
        assert f"order {CATALOG[name].order};" in section, name
        assert CATALOG[name].paper in section, name
        (line,) = re.findall(r"^diffusolve compare (.*)$", section, re.MULTILINE)
        assert shlex.split(line)[0] == name
        assert f"[{name}](#{anchor(name)})" in page


def test_the_gallery_guides_cfg_pp_by_its_own_scale() -> None:
    plain, cfg_pp = (Entry("Euler CFG++", solver, 1) for solver in (euler, euler.with_options(cfg_pp=True)))
    assert command(plain, "x.png")[-4:] == ["--guidance", "2", "--out", "x.png"]
    assert command(cfg_pp, "x.png")[-4:] == ["--guidance", "0.6", "--out", "x.png"]
    assert description(CATALOG["DPM++ 2M CFG++"]) == f"{description(CATALOG['DPM++ 2M'])}; guided, and renoised without"
    assert anchor(cfg_pp.name) == "euler-cfg"


def test_no_picture_of_the_gallery_is_left_over() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    pictures = {path.name for path in (ROOT / "docs" / "images" / "gallery").iterdir()}
    assert pictures == set(re.findall(r"images/gallery/(.+?\.png)", page))


# Which sampler when


@lru_cache(maxsize=1)
def tables() -> dict[str, dict[str, dict[str, float]]]:
    """The page's tables: name -> row -> column -> number."""
    page = (ROOT / "docs" / "which-sampler.md").read_text(encoding="utf-8")
    found = {}
    for name, content in re.findall(r"<!-- begin (\S+) -->\n(.*?)<!-- end \1 -->", page, re.DOTALL):
        lines = [
            [cell.strip(" *") for cell in line.strip("|").split("|")] for line in content.splitlines() if "|" in line
        ]
        found[name] = {
            cells[0]: {
                column: float("nan" if cell == "-" else cell)
                for column, cell in zip(lines[0][1:], cells[1:], strict=True)
            }
            for cells in lines[2:]
        }
    return found


FIRST_ORDER = ("Euler", "DDIM", "Heun++ 2", "Gradient estimation")
MULTISTEP = ("DPM++ 2M", "DPM++ 3M", "UniPC", "DEIS", "iPNDM")


def distance(name: str, evaluations: int) -> float:
    return tables()["distance-digits"][name][f"{evaluations}"]


def test_every_measurement_stands_in_the_page() -> None:
    assert set(tables()) == set(MEASUREMENTS)
    rows = [set(tables()[f"distance-{model}"]) for model in ("digits", "exact", "emoji")]
    deterministic = rows[0] - {"learned for this network"}
    assert all(each == deterministic | {"learned for this network"} for each in rows)
    assert deterministic <= set(CATALOG)
    assert set(tables()["frechet-exact"]) <= set(CATALOG)


def test_the_advice_for_few_and_many_steps_is_what_was_measured() -> None:
    assert 3.5 < distance("Euler", 10) / distance("DPM++ 2M", 10) < 4.5
    assert all(7.5 < distance("Euler", 10) / distance(name, 10) < 8.5 for name in ("DEIS", "iPNDM"))
    assert 18 < distance("Euler", 10) / distance("learned for this network", 10) < 22
    assert min(distance("Heun", 10), distance("Exponential Heun", 10)) > distance("Euler", 10)
    assert distance("Euler", 50) > 3 * distance("DPM++ 2M", 20)
    assert all(4.5 < distance("DPM++ 2M", 50) / distance(name, 50) < 8.5 for name in ("UniPC", "DEIS", "DPM++ 3M"))
    assert min(distance(name, 50) for name in FIRST_ORDER) > 3 * max(distance(name, 50) for name in MULTISTEP)
    assert distance("DPM++ 3M", 5) > distance("DPM++ 2M", 5)
    by_hand = [row["5"] for name, row in tables()["distance-digits"].items() if name in CATALOG]
    assert distance("learned for this network", 5) < 0.5 * min(by_hand)


def test_the_advice_on_sigmas_is_what_was_measured() -> None:
    table = tables()["spacings"]
    for name in MULTISTEP:
        assert 5 * table["Karras"][f"{name}, 20"] < table["Uniform"][f"{name}, 20"]
        assert table["Exponential"] == table["Polyexponential"] == table["Uniform log-SNR"]
    assert table["Uniform"]["DPM++ 3M, 20"] > 55 * table["Karras"]["DPM++ 3M, 20"]
    assert 14 < table["Uniform"]["UniPC, 20"] / table["Karras"]["UniPC, 20"] < 16
    assert table["Uniform"]["UniPC, 20"] < table["Uniform"]["Euler, 20"]
    assert table["Uniform"]["DPM++ 3M, 20"] > table["Uniform"]["DPM++ 3M, 10"]
    assert 0.9 < table["Karras"]["Euler, 20"] / table["Uniform"]["Euler, 20"] < 1.1
    for name in MULTISTEP:
        for schedule_type in ("Trailing", "SGM Uniform", "Simple"):
            assert 0.038 < table[schedule_type][f"{name}, 20"] < 0.042
    in_10 = [column for column in table["Karras"] if column.endswith(", 10")]
    assert len(in_10) == 7
    others = [row for name, row in table.items() if name != "Bong tangent"]  # which is made for flow matching
    assert all(table["Beta sigmas"][column] == max(row[column] for row in others) for column in in_10)


def test_the_advice_on_stochastic_samplers_is_what_was_measured() -> None:
    table = tables()["frechet-exact"]
    assert min(table[name]["5"] for name in ("Euler a", "DPM++ SDE", "DPM++ 2S a")) > 3 * table["DPM++ 2M"]["5"]
    assert max(table[name]["5"] for name in ("DPM++ 2M SDE", "DPM++ 3M SDE", "SA-Solver")) <= 0.2
    assert all(row["20"] <= 0.15 for name, row in table.items() if name != "LCM")
    assert table["LCM"]["50"] > 2 * max(row["50"] for name, row in table.items() if name != "LCM") - 0.01
    network = tables()["frechet-digits"]
    assert max(network[name]["5"] for name in ("DPM++ 2M", "DEIS")) < 0.3
    assert min(network[name]["5"] for name in ("Heun", "SA-Solver", "UniPC")) > 2.5
    assert network["Euler a"]["50"] > 1.3 * network["DPM++ 2M"]["10"]


def test_the_advice_on_guidance_is_what_was_measured() -> None:
    table = tables()["guidance"]
    assert all(row["scale 1, 10"] < row["scale 3, 10"] < row["scale 7, 10"] for row in table.values())
    second_order = table["DPM++ 2M"]["scale 7, 10"]
    for name in ("UniPC", "DPM++ 3M", "iPNDM"):
        assert 2 < table[name]["scale 7, 10"] / second_order < 3
    assert table["DEIS"]["scale 7, 10"] < second_order


def test_the_advice_on_flow_matching_is_what_was_measured() -> None:
    table = tables()["flow"]
    for shift in (1, 3):
        assert all(row[f"shift {shift}, 20"] <= 0.17 for name, row in table.items() if name != "LCM")
    for shift in (3, 6):
        assert min(row[f"shift {shift}, 5"] for row in table.values()) > 0.9 * table["DPM++ 2M"][f"shift {shift}, 5"]
        assert table["Euler"][f"shift {shift}, 5"] > 1.9 * table["DPM++ 2M"][f"shift {shift}, 5"]
    two_evaluations = ("Heun", "DPM++ 2S a", "DPM++ SDE", "SEEDS-2")
    others = set(table) - set(two_evaluations)
    assert min(table[name]["shift 6, 5"] for name in two_evaluations) > max(
        table[name]["shift 6, 5"] for name in others
    )


def test_numbers_in_a_table_have_two_digits_and_the_least_are_bold() -> None:
    table = {"A": {"5": 0.1234, "10": 0.0}, "B": {"5": 5.678e-4, "10": float("nan")}}
    assert markdown(table, "sampler").splitlines() == [
        "| sampler | 5 | 10 |",
        "| --- | ---: | ---: |",
        "| A | 0.12 | **0** |",
        "| B | **5.7e-04** | - |",
    ]
    assert markdown(table, "sampler", good=0.2).splitlines()[2:] == [
        "| A | **0.12** | **0** |",
        "| B | **5.7e-04** | - |",
    ]
    assert digits(12.3) == "12"


def test_a_table_is_written_between_its_own_comments() -> None:
    page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
    made = replace_between(page, "x", "new")
    assert made == "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
    with pytest.raises(ValueError, match="begin z"):
        replace_between(page, "z", "new")


def test_the_frechet_distance_is_that_of_normal_distributions() -> None:
    """Diagonal covariances: the squared distances of means and of standard deviations."""
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * np.sqrt(3 / 4)  # covariance: identity
    made, data = corners * [2.0, 0.5], corners * [1.0, 3.0] + [0.25, -1.0]
    assert frechet(made, data) == pytest.approx(0.25**2 + 1.0 + (2 - 1) ** 2 + (0.5 - 3) ** 2)
    assert frechet(data, data) == pytest.approx(0.0, abs=1e-12)


def test_the_same_noise_gives_the_same_row() -> None:
    network = DatasetDenoiser(SD15, load_digits_data()[0])
    rows = [frechet_row(network, "Heun", "Karras", 70, (5,)) for _ in range(2)]
    assert rows[0] == rows[1]
    assert 0.3 < rows[0][5] < 10.0


def test_the_tables_of_slips_are_what_is_measured() -> None:
    for name in slips.PAGES:
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert page == slips.filled(page, name), "run python -m benchmarks.slips"
