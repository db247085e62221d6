"""Every example in a docstring runs, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import nbgather

README = Path(__file__).parent.parent / "README.md"

#: Names that begin with an underscore are ours alone; backends are reached through their table.
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(nbgather.__path__, "nbgather.")
    if not any(part.startswith("_") for part in info.name.split("."))
    and not info.name.startswith("nbgather.backends.")
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


def test_the_readmes_code_runs():
    scope = {}
    found = blocks("python")
    assert len(found) >= 2
    for block in found:
        exec(block, scope)  # one after the other, as it is read
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
