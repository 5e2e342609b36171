"""Hooks of `mkdocs build`: files of the repository that a page links to become part of the site.

A page links to a file outside of docs/ as it does in the repository, such as
`../examples/quickstart.py`. In the site that file stands at its path in the repository, and
CONTRIBUTING.md and CHANGELOG.md become pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's root, and the files that pages link to."""
    for name in PAGES:
        files.append(_file(name, config))
    linked = {
        path
        for page in files.documentation_pages()
        for target in LINK.findall(page.content_string)
        if (path := _in_repository(page.src_uri, target)) is not None
    }
    for path in sorted(linked):
        if (ROOT / path).is_file() and files.get_file_from_path(path) is None:
            files.append(_file(path, config))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links at the files' places in the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, match[1])
        return match[1] if path is None else posixpath.relpath(path, folder or ".")

    return LINK.sub(replaced, markdown)


def _in_repository(page: str, target: str) -> str | None:
    """The place in the site of a link that its page's place in the repository gives a meaning;
    None where it is a link of the site already."""
    if page in PAGES:
        path = posixpath.normpath(target)
        return path.removeprefix("docs/")
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path


def _file(path: str, config: MkDocsConfig) -> File:
    return File.generated(config, path, abs_src_path=str(ROOT / path))
