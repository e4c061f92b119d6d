"""A hook of the documentation site (``mkdocs.yml``): pages from the repository's root, and links that leave ``docs/``.

README, ARCHITECTURE and CONTRIBUTING are pages of the site as they stand, and so are the notebooks with what they show.
Links from a page to a picture outside of ``docs/`` bring the picture in; links to other files of the repository lead to
where it is kept.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

AT_ROOT = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md"}
"""File in the root -> its page."""

RICHEST_FIRST = ("text/html", "image/png", "text/plain")
"""The forms of what a cell of a notebook shows."""

LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and the pictures that pages show from outside of ``docs/``."""
    for name, page in AT_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=as_markdown(path)))
    for path in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"!\[[^\]]*\]\(\.\./([^)]+)\)", path.read_text(encoding="utf-8")):
            if files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead where their targets are on the site."""
    uri = page.file.src_uri
    folder = ROOT if uri in AT_ROOT.values() else (ROOT / "docs" / uri).parent

    def moved(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if re.match(r"\w+:", target) or not (folder / target).exists():
            return link[0]  # elsewhere, or wrong: mkdocs says so
        path = (folder / target).resolve().relative_to(ROOT).as_posix()
        on_site = AT_ROOT.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(on_site) is None:
            on_site = f"{config.repo_url}/blob/main/{path}"
        up = "" if on_site.startswith("http") else "../" * uri.count("/")
        return f"{before}{up}{on_site}{after}"

    return LINK.sub(moved, markdown)


def as_markdown(path: Path) -> str:
    """The notebook in a file as a page: text, code, and what each cell printed or showed."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [shown for output in cell["outputs"] if (shown := _shown(output))]
    return "---\nhide: [toc]\n---\n\n" + "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    """An output of a cell as Markdown or HTML."""
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output.get("data", {})
    kind = next((kind for kind in RICHEST_FIRST if kind in data), None)
    if kind is None:
        return ""
    value = "".join(data[kind])
    if kind == "text/html":
        return f'<div class="notebook">{" ".join(value.splitlines())}</div>'
    if kind == "image/png":
        return f'<img alt="output" src="data:image/png;base64,{"".join(value.split())}">'
    return f"```text\n{value}\n```"
