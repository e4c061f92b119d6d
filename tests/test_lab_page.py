"""The lab's page in a browser: choose, run, compare, download, cancel, wrong input, two users at once."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusolve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("the lab's page is tested in chromium, which is not installed", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="the lab's page is tested with Playwright")
pytest.importorskip("gradio", reason="the lab needs gradio")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-sync --disable-component-update "
    "--disable-default-apps --no-first-run"
)
QUICK = "model=gaussian&guidance=1&samplers=Euler,comfyui:+dpmpp_2m+karras&steps=3,5&num=2"
"""A choice that takes no time."""
LONG = "model=emoji-exact&guidance=2&samplers=Euler&steps=900&num=32&error=no"
"""A choice that takes minutes."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a lab."""
    from diffusolve.lab.serve import launch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    page, address = launch("digits", port=0)
    yield address
    page.close(verbose=False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """What all pages share: what the browser has loaded before. The lab knows users by their pages."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def users(context: Any) -> Iterator[Any]:
    """A function that makes a new user's page at an address."""
    pages = []

    def user(address: str) -> Any:
        page = context.new_page()
        pages.append(page)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(address)
        page.wait_for_selector("#link a")  # the choice is restored
        return page

    yield user
    for page in pages:
        page.close()


def said(page: Any, text: str) -> None:
    """Wait until the page says `text`."""
    page.wait_for_selector(f"#status:has-text('{text}')")


def test_a_link_is_chosen_run_compared_and_downloaded_and_nothing_comes_from_elsewhere(
    address: str, users: Any, tmp_path: Path
) -> None:
    page = users(f"{address}?{QUICK}")
    page.click("#run")
    said(page, "Done: 4 runs")
    rows = page.locator("#samples-made tr").all_inner_texts()
    assert [re.split(r"\s*\t", row)[0].strip() for row in rows[1:]] == ["Euler", "comfyui: dpmpp_2m karras"]
    assert page.locator("#samples-made img").count() == 4
    assert "5 evaluations" in rows[1]
    assert "error" in rows[1]
    drawn = page.locator("#plots svg").text_content()
    assert all(words in drawn for words in ("distance to the exact solution", "seconds", "log(alpha / sigma)", "Euler"))
    page.wait_for_selector("#coefficients table")
    assert "x1 =" in page.locator("#coefficients").inner_text()

    with page.expect_download() as download:
        page.click("#plan-file")
    plan = diffusolve.Plan.from_json(Path(download.value.path()).read_text(encoding="utf-8"))
    assert plan == diffusolve.sampler("Euler").plan("sd15", "sample", 3)
    with page.expect_download() as download:
        page.click("#config-file")
    config = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert config["_class_name"] == "EulerDiscreteScheduler"

    page.wait_for_selector("#link a")
    link = page.locator("#link a").get_attribute("href")
    assert "samplers=Euler%2Ccomfyui" in link
    assert "steps=3%2C5" in page.url
    again = users(address + link)
    assert again.locator("#steps input, #steps textarea").input_value() == "3, 5"
    assert "comfyui: dpmpp_2m karras" in again.locator("#samplers").inner_text()
    foreign = [url for url in page.requested if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []


def test_a_sampler_of_another_world_and_a_plan_are_added(address: str, users: Any, tmp_path: Path) -> None:
    page = users(f"{address}?{QUICK.replace(',comfyui:+dpmpp_2m+karras', '')}")
    choose(page, "#world", "a1111")
    choose(page, "#name", "DPM++ 2M SDE")
    choose(page, "#schedule", "Karras")
    page.click("#add")
    page.wait_for_selector("#samplers:has-text('a1111: DPM++ 2M SDE Karras')")
    file = tmp_path / "learned.json"
    file.write_text(diffusolve.sampler("UniPC").plan("sd15", "sample", 4).to_json(), encoding="utf-8")
    page.set_input_files("input[type=file]", file)
    said(page, "learned: 4 steps, 4 evaluations")
    page.click("#run")
    said(page, "Done: 5 runs")
    assert "plan: learned" in page.locator("#samples-made").inner_text()


def choose(page: Any, dropdown: str, value: str) -> None:
    """Choose `value` in a drop-down list, as with the keyboard."""
    field = page.locator(f"{dropdown} input")
    field.click()
    field.fill(value)
    page.locator(f"[role=option][aria-label='{value}'], [role=option]:text-is('{value}')").first.click()


def test_wrong_input_is_the_librarys_error(address: str, users: Any, tmp_path: Path) -> None:
    page = users(f"{address}?{QUICK.replace('Euler,', 'Eulr+Karras,')}")
    page.click("#run")
    said(page, "unknown sampler 'Eulr Karras'".replace("'", "\\'"))
    assert "did you mean 'Euler Karras'" in page.locator("#status").inner_text()
    page.locator("#steps input, #steps textarea").fill("five")
    page.click("#run")
    said(page, "expected a whole number")
    (tmp_path / "no.json").write_text("{}", encoding="utf-8")
    page.set_input_files("input[type=file]", tmp_path / "no.json")
    said(page, "not a plan")
    page = users(f"{address}?steps=many")
    said(page, "steps is")
    page = users(f"{address}?model=somebody/else")
    said(page, "unknown model of this page")


def test_one_user_stops_a_long_run_while_another_one_is_served(address: str, users: Any) -> None:
    first, second = users(f"{address}?{LONG}"), users(f"{address}?{QUICK}")
    first.click("#run")
    said(first, "step 3")
    second.click("#run")
    said(second, "Done: 4 runs")
    assert first.locator("#status [role=progressbar]").count() == 1
    assert first.locator("#samples-made img").count() == 0
    first.click("#stop")
    said(first, "Stopped; 0 runs")
    assert second.locator("#samples-made img").count() == 4
