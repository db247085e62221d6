"""Explanations: every output cell has its source's colour, and the formula is true."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import nbgather
from nbgather.explain import explain_gather, explain_inverse, worked_example


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_each_output_cell_has_the_colour_of_its_source(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    x = np.arange(np.prod(shape)).reshape(shape)
    for dim in range(-len(shape), len(shape)):
        index = generator.integers(0, shape[dim], shape)
        panels = {p.title: p for p in explain_gather(x, dim, index)._panels}
        cells = {
            title: {c.position: c for _, rows in p.slices for row in rows for c in row}
            for title, p in panels.items()
        }
        assert len({c.colour for c in cells["input"].values()}) == x.size
        by_text = {c.text: c.colour for c in cells["input"].values()}
        for position, cell in cells["output"].items():
            assert cell.colour == by_text[cell.text]  # every value of the input is another one
            assert cells["index"][position].colour == cell.colour


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_formula_is_true(dim: int) -> None:
    x, _, _ = worked_example()
    index = np.random.default_rng(dim).integers(0, x.shape[dim], (2, 2, 3))
    out = nbgather.gather(x, dim, index)
    for cell in np.ndindex(index.shape):
        general, filled = explain_gather(x, dim, index, cell=cell).lines
        scope = {"input": x, "index": index, "out": out}
        parts = filled.split(" = ")
        values = {int(eval(part, scope)) for part in parts}
        assert len(values) == 1, filled
        scope |= dict(zip("ijk", cell, strict=True))
        assert len({int(eval(part, scope)) for part in general.split(" = ")}) == 1


def test_the_forms_agree() -> None:
    explanation = explain_gather(*worked_example())
    text = explanation.text()
    assert re.sub(r"\x1b\[[0-9;]*m", "", explanation.text(colour=True)) == text
    assert "\x1b[48;2;" in explanation.text(colour=True)
    tree = ET.fromstring(explanation.svg())
    drawn = [node.text for node in tree.iter() if node.tag.endswith("text")]
    assert explanation.lines == drawn[-2:]
    written = re.findall(r"[\[<] *(\d+)[\]>] ?", re.sub(r"\w+\[\d\]", "", text.split("\n\n")[0]))
    assert sorted(written) == sorted(t for t in drawn if t and t.isdigit())
    assert explanation._repr_svg_() == explanation.svg()
    assert explanation.html().startswith("<!doctype html>")
    assert len(explanation.figure().axes) == 3


@pytest.mark.parametrize(
    "x, y, lines",
    [
        (np.array([[1, 2], [3, 4]]), np.array([[3, 2], [1, 4]]),
         ["dim 0 fits: index [[1, 0], [0, 1]], the only one",
          "dim 1 does not: output[0][0] = 3 is not in input[0][:]"]),
        (np.array([5, 5, 7]), np.array([5]), ["dim 0 fits: index [0], the lowest of several"]),
        (np.array([1, 2]), np.array([9, 1]), ["dim 0 does not: output[0] = 9 is not in input[:]"]),
        (np.zeros((2, 3)), np.zeros((3, 3)),
         ["dim 0 fits: index [[0, 0, 0], [0, 0, 0], [0, 0, 0]], the lowest of several",
          "dim 1 does not: output has 3 cells along dimension 0 and input 2"]),
        (np.array([0.0, -0.0]), np.array([-0.0]), ["dim 0 fits: index [1], the only one"]),
    ],
)  # fmt: skip
def test_the_inverse_says_why(x: np.ndarray, y: np.ndarray, lines: list[str]) -> None:
    assert explain_inverse(x, y).lines == lines


def test_what_cannot_be_shown() -> None:
    with pytest.raises(ValueError, match=r"input has shape \(300,\): at most 3 dimensions and 256"):
        explain_gather(np.zeros(300), 0, np.zeros(1, int))
    with pytest.raises(ValueError, match=r"cell is \(5,\): it must be within the output's shape"):
        explain_gather(np.zeros(3), 0, np.zeros(1, int), cell=(5,))
    with pytest.raises(IndexError, match="index 3 at"):
        explain_gather(np.zeros(3), 0, np.array([3]))
    assert str(explain_gather(np.zeros((2, 0)), 1, np.zeros((2, 0), int)))
    assert str(explain_gather(np.array(7), 0, np.array(0))).startswith("input")
