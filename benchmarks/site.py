"""A hook of the documentation site (``mkdocs.yml``): pages from the repository's root, and links that leave ``docs/``.

README, ARCHITECTURE and CONTRIBUTING are pages of the site as they stand. Links from a page to a picture outside of
``docs/`` bring the picture in; links to other files of the repository lead to where it is kept.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

AT_ROOT = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md"}
"""File in the root -> its page."""

LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and the pictures that pages show from outside of ``docs/``."""
    for name, page in AT_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"!\[[^\]]*\]\(\.\./([^)]+)\)", path.read_text(encoding="utf-8")):
            if files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead where their targets are on the site."""
    folder = ROOT if page.file.src_uri in AT_ROOT.values() else ROOT / "docs"

    def moved(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if re.match(r"\w+:", target) or not (folder / target).exists():
            return link[0]  # elsewhere, or wrong: mkdocs says so
        path = (folder / target).resolve().relative_to(ROOT).as_posix()
        on_site = AT_ROOT.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(on_site) is None:
            on_site = f"{config.repo_url}/blob/main/{path}"
        return f"{before}{on_site}{after}"

    return LINK.sub(moved, markdown)
