"""Every example in a docstring runs, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nbgather

README = Path(__file__).parent.parent / "README.md"

#: What the public functions are made of, and no user imports.
INSIDE = tuple(
    f"nbgather.{n}"
    for n in ("containers", "dispatch", "engine", "kernels", "onnx.backend", "operations")
)

#: Names that begin with an underscore are ours alone.
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(nbgather.__path__, "nbgather.")
    if not any(part.startswith("_") for part in info.name.split("."))
    and not info.name.startswith(INSIDE)
)


def public(module):
    """The functions and classes that a module says are its own."""
    names = getattr(module, "__all__", ())
    found = ((name, getattr(module, name)) for name in names)
    return [(n, o) for n, o in found if inspect.isfunction(o) or inspect.isclass(o)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0


@pytest.mark.parametrize("name", ["nbgather", *MODULES])
def test_every_public_function_shows_an_example(name):
    module = importlib.import_module(name)
    bare = [
        n
        for n, o in public(module)
        if n != "main" and inspect.isfunction(o) and ">>> " not in (o.__doc__ or "")
    ]
    assert bare == []


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_readmes_code_runs(number):
    """Each block by itself, in an interpreter of its own."""
    block = blocks("python")[number]
    result = subprocess.run(
        [sys.executable, "-c", block], cwd=README.parent, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_what_the_readme_says_of_its_first_block():
    scope = {}
    exec(blocks("python")[0], scope)
    assert scope["whole"].shape == scope["x"].shape
    assert nbgather.gather(scope["x"], 1, np.array([[[0, 5, 2, 7]]])).tolist() == [
        [[0, 21, 10, 31]]
    ]


def test_the_readmes_error_is_the_error():
    (block,) = blocks("pycon")
    call, said = block.strip().split("\n")
    with pytest.raises(IndexError) as raised:
        eval(call.removeprefix(">>> "), {"nbgather": nbgather, "np": np})
    assert said == f"IndexError: {raised.value}"


def test_the_readmes_files_are_there():
    paths = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert "scripts/pictures/demo.png" in paths
    assert [p for p in paths if not (README.parent / p).exists()] == []


def test_a_wrong_example_is_noticed():
    def wrong():
        """
        >>> 1 + 1
        3
        """

    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for example in finder.find(wrong, "wrong"):
        runner.run(example, out=lambda text: None)
    assert runner.summarize(verbose=False).failed == 1
