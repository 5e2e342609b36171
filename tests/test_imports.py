"""Imports run downwards only and without cycles, and settings do not import TensorFlow."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent / "tfllm"
MAY_IMPORT = {
    "config": set(),
    "tokenizers": {"config"},
    "layers": set(),
    "charts": set(),
    "optimization": {"config", "layers"},
    "models": {"config", "layers", "tokenizers", "optimization"},
    "pretrained": {"config", "layers", "tokenizers", "optimization", "models"},
    "data": {"config", "layers", "tokenizers", "optimization", "models", "pretrained"},
    "text_mining": {"charts"},
}
MAY_IMPORT["distribution"] = MAY_IMPORT["data"] - {"pretrained"}
MAY_IMPORT["generation"] = MAY_IMPORT["data"] | {"data"}
MAY_IMPORT["evaluation"] = MAY_IMPORT["generation"] | {"generation", "charts"}
MAY_IMPORT["tasks"] = MAY_IMPORT["evaluation"] | {"evaluation"}
MAY_IMPORT["training"] = MAY_IMPORT["tasks"] | {"tasks", "distribution"}
MAY_IMPORT["serving"] = MAY_IMPORT["tasks"] | {"tasks"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# The version; files written whole or not at all; names that are imported when they are used; what
# a path leads to; and where a model asks for what lies above it, which imports nothing.
EVERYONE_MAY_IMPORT = {
    "version",
    "files",
    "keras_internals",
    "lazy_names",
    "model_verbs",
    "path_kinds",
}
LAYERS_MAY_USE = {"keras", "tensorflow", "numpy", "tfllm.layers", "tfllm.keras_internals"}
MOST_FILES = 20
"""on one level of a folder: more of them are a warehouse, in which nobody finds anything"""


def imported(path):
    """Every module that a file imports, anywhere in it; of a package also the module of the name.

    What only type checkers read counts as all others.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = name in MODULES or node.module == "tfllm"
                yield name if is_module else node.module


def module_of(path):
    """The name that a file is imported by."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
FILES = [path for path in MODULES.values() if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_lies_below_it(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT.get(part, set()) | {part} | EVERYONE_MAY_IMPORT
    for module in imported(path):
        if not module.startswith("tfllm."):
            continue
        other = module.split(".")[1]
        assert other in allowed, f"{part} must not import {other}"


def test_no_modules_import_one_another_in_a_circle():
    """Packages aside, whose names come from their modules; late imports count as all others, and so
    do those for types."""
    graph = {
        module: {other for other in imported(path) if other in MODULES}
        for module, path in MODULES.items()
        if path.name != "__init__.py"
    }
    while True:  # take away what imports nothing that is left
        done = {module for module, others in graph.items() if not others & set(graph)}
        if not done:
            break
        graph = {module: others for module, others in graph.items() if module not in done}
    in_circles = {m: sorted(others & set(graph)) for m, others in graph.items()}
    assert not in_circles, in_circles


def test_a_level_of_a_folder_has_few_files():
    folders = {path.parent for path in FILES} | {ROOT}
    counts = {
        str(folder.relative_to(ROOT)): sum(child.is_file() for child in folder.iterdir())
        for folder in folders
    }
    assert not {folder: n for folder, n in counts.items() if n > MOST_FILES}


@pytest.mark.parametrize("path", sorted((ROOT / "layers").glob("*.py")), ids=lambda p: p.name)
def test_layers_can_be_lifted_out(path):
    for module in imported(path):
        base = (
            ".".join(module.split(".")[:2]) if module.startswith("tfllm") else module.split(".")[0]
        )
        assert base in LAYERS_MAY_USE or base in sys.stdlib_module_names, module


@pytest.mark.parametrize(
    "module",
    [
        "tfllm",
        "tfllm.config",
        "tfllm.models.sizes.all_sizes",
        "tfllm.distribution.cluster",
        "tfllm.distribution.launching",
        "tfllm.tokenizers.chat.prompt_form",
        "tfllm.serving.client.client",
    ],
)
def test_settings_do_not_import_tensorflow(module):
    code = f"import {module}, sys; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    "package",
    [
        "tfllm",
        "tfllm.models.sizes",
        "tfllm.pretrained",
        "tfllm.serving",
        "tfllm.tasks",
        "tfllm.training",
    ],
)
def test_every_public_name_is_there(package):
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_public_names_are_listed_and_unknown_ones_are_refused():
    import tfllm

    assert {"Transformer", "CausalLM", "train", "ModelConfig"} <= set(dir(tfllm))
    assert tfllm.Transformer.__module__ == "tfllm.models.causal_lm"
    with pytest.raises(AttributeError, match="no attribute 'transformer'"):
        _ = tfllm.transformer


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS))
)
def test_what_tests_share_stands_in_modules_of_its_own(path):
    """No file imports one of tests, so that its tests can be changed without a look at others."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = [
        f"{node.module}.{alias.name}"
        for node in tree
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert not [n for n in names if n.startswith("tests.") and ".test_" in n]
