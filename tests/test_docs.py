"""Every example in a docstring runs, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import nbgather

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
