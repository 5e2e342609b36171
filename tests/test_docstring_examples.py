"""The examples in the docstrings of the public names run and give what they show.

An example is a section `Examples:` at the end of a docstring, in the form of `doctest`. It may use
the names of its module, and `tfllm`, `keras`, `np` and `tf`:

    Examples:
        >>> config = GenerationConfig(temperature=0.8, top_p=0.9)
        >>> config.top_k
        0
"""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.DONT_ACCEPT_TRUE_FOR_1
NAMES = {"tfllm": tfllm, "keras": keras, "np": np, "tf": tf}
COMPLETE = ("tfllm.config", "tfllm.data", "tfllm.evaluation", "tfllm.tasks", "tfllm.training")
"""packages in which each public class, other than errors, has an example"""


def public_objects() -> Iterator[tuple[str, object]]:
    """Where a public class or function is defined, and the object, each once."""
    packages = ["tfllm"]
    packages += [
        module.name for module in pkgutil.walk_packages(tfllm.__path__, "tfllm.") if module.ispkg
    ]
    found = {}
    for package in packages:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    yield from sorted(found.items())


PUBLIC = dict(public_objects())


def examples(name: str) -> list[doctest.DocTest]:
    """The examples of a public name and of its own methods."""
    value = PUBLIC[name]
    module = inspect.getmodule(value)
    finder = doctest.DocTestFinder()
    tests = finder.find(value, name, module=module, extraglobs=NAMES)
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", [name for name in PUBLIC if examples(name)])
def test_an_example_gives_what_it_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    for test in examples(name):
        runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
        runner.run(test, out=report.append)
    assert report == [], "".join(report)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, value in PUBLIC.items()
        if inspect.isclass(value) and not issubclass(value, Exception) and name.startswith(COMPLETE)
    ],
)
def test_a_public_class_has_an_example(name):
    assert ">>>" in (PUBLIC[name].__doc__ or "")
