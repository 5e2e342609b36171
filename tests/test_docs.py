"""Commands, files and public names in the README and in docs/ exist."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import tfllm
from tfllm.cli.parsing import parse

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/**/*.md"))]
API = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
SUBPACKAGES = (
    *("config", "layers", "tokenizers", "data", "tasks", "training", "evaluation"),
    *("evaluation.harness", "models.sizes", "pretrained", "serving"),
)


def blocks(page: Path, language: str) -> list[str]:
    """The code in a language that a page shows."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words behind each `tfllm` of a page's shell lines."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [command[1:] for command in words if command[:1] == ["tfllm"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_what_the_command_line_takes(page):
    for words in commands(page):
        options = parse(words)
        if options.command == "launch":
            parse(options.worker_command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_is_python_and_names_what_there_is(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "tfllm" or node.attr in dir(tfllm), node.attr
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tfllm"):
                for alias in node.names:
                    assert hasattr(importlib.import_module(str(node.module)), alias.name)


def test_the_readme_is_short_and_shows_the_two_commands():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    for target in ("quickstart", "test"):
        assert f"\nmake {target} " in text
        assert f"\n{target}: " in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_what_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_api_pages_have_every_public_name():
    shown = set(re.findall(r"^::: (\S+)$", API, re.MULTILINE))
    listed = set(re.findall(r"\]\[tfllm\.(\w+)\]", API))
    assert set(tfllm.__all__) - listed == set()
    assert {f"tfllm.{name}" for name in tfllm.__all__} - shown == set()
    for package in SUBPACKAGES:
        names = importlib.import_module(f"tfllm.{package}").__all__
        missing = {n for n in names if not {f"tfllm.{package}.{n}", f"tfllm.{n}"} & shown}
        assert missing == set(), package
