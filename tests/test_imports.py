"""Imports run downwards only, and settings never wait for TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tfllm"
MAY_IMPORT = {
    "config": set(),
    "tokenizers": {"config"},
    "layers": set(),
    "optimization": {"config", "layers"},
    "models": {"config", "layers", "tokenizers", "optimization"},
    "pretrained": {"config", "layers", "tokenizers", "optimization", "models"},
    "data": {"config", "layers", "tokenizers", "optimization", "models", "pretrained"},
}
MAY_IMPORT["distribution"] = MAY_IMPORT["data"] - {"pretrained"}
MAY_IMPORT["generation"] = MAY_IMPORT["data"] | {"data"}
MAY_IMPORT["evaluation"] = MAY_IMPORT["generation"] | {"generation"}
for part in ("tasks", "training", "serving"):  # side by side
    MAY_IMPORT[part] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# The version, the one way to write a folder whole, and what a folder is that was given.
EVERYONE_MAY_IMPORT = {"__version__", "atomic_folder", "path_kinds"}
LAYERS_MAY_USE = {"keras", "tensorflow", "numpy", "tfllm.layers"}


def imported(path):
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "tfllm":
                yield from (f"tfllm.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_lies_below_it(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT.get(part, set()) | {part} | EVERYONE_MAY_IMPORT
    for module in imported(path):
        if not module.startswith("tfllm."):
            continue
        other = module.split(".")[1]
        assert other in allowed, f"{part} must not import {other}"


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
        "tfllm.models.presets",
        "tfllm.distribution.cluster",
        "tfllm.distribution.launching",
        "tfllm.tokenizers.prompt_form",
        "tfllm.serving.client",
    ],
)
def test_settings_do_not_import_tensorflow(module):
    code = f"import {module}, sys; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_every_public_name_is_there_for_python_and_for_type_checkers_alike():
    import tfllm

    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    shown = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        for alias in node.names
    }
    assert shown == tfllm._PUBLIC
    assert {*shown, "__version__"} == set(tfllm.__all__)
    for name in tfllm.__all__:
        assert getattr(tfllm, name) is not None


def test_public_names_are_listed_and_unknown_ones_are_refused():
    import tfllm

    assert {"Transformer", "CausalLM", "train", "ModelConfig"} <= set(dir(tfllm))
    assert tfllm.Transformer.__module__ == "tfllm.models.causal_lm"
    with pytest.raises(AttributeError, match="no attribute 'transformer'"):
        _ = tfllm.transformer
