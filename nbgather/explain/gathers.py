"""What is explained: a gather forwards, with its formula, and backwards, with reasons."""

from __future__ import annotations

import itertools
import math
import operator
from typing import Any

import numpy as np

from nbgather.explain.cells import checked, make_panel, source_colours, value_text
from nbgather.explain.explanation import Explanation
from nbgather.indexing import gather, infer_gather
from nbgather.operations import checks

LETTERS = "ijk"


def _subscripted(name: str, subscripts: tuple[Any, ...]) -> str:
    """``name[a][b]``."""
    return name + "".join(f"[{s}]" for s in subscripts)


def explain_gather(
    input: Any, dim: int, index: Any, *, cell: tuple[int, ...] | None = None
) -> Explanation:
    """Show where each cell of a gather came from, with the formula filled in for one of them.

    Parameters
    ----------
    input, dim, index
        As in :func:`nbgather.gather`; at most 3 dimensions and 256 cells.
    cell : tuple of int, optional
        The output cell that the formula is filled in for; the last one by default.

    Returns
    -------
    Explanation
        Each output cell has the colour of its source.

    Raises
    ------
    TypeError, ValueError, IndexError
        As :func:`nbgather.gather`; arrays too large to be shown; no such cell.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.explain import explain_gather
    >>> x = np.array([[1, 2, 3], [4, 5, 6]])
    >>> explain_gather(x, 1, np.array([[2, 0], [1, 1]])).lines[-1]
    'out[1][1] = input[1][index[1][1]] = input[1][1] = 5'
    """
    x, i = checked("input", input), checked("index", index)
    output = gather(x, dim, i)
    axis = operator.index(dim) % max(x.ndim, 1)
    source = gather(np.arange(x.size).reshape(x.shape), dim, i)
    colours = source_colours(x.shape, x.size)
    lines = [_formula(output.ndim, axis)]
    if cell is None and output.size:
        cell = tuple(n - 1 for n in output.shape)
    source_cell = None
    if cell is not None:
        cell = tuple(checks.integer(c, "cell") for c in cell)
        if len(cell) != output.ndim or not all(0 <= c < n for c, n in zip(cell, output.shape)):
            raise ValueError(f"cell is {cell}: it must be within the output's shape {output.shape}")
        source_cell = tuple(int(p) for p in np.unravel_index(int(source[cell]), x.shape))
        steps = (
            _subscripted("out", cell),
            _input_term(cell, axis),
            _subscripted("input", source_cell),
            value_text(output[cell]),
        )
        lines.append(" = ".join(steps))
    gathered = _gathered_colours(colours, source)
    panels = [
        make_panel("input", x, colours, source_cell),
        make_panel("index", i, gathered, cell),
        make_panel("output", output, gathered, cell),
    ]
    return Explanation(panels, lines)


def _gathered_colours(colours: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The colour of each output cell; ``source`` is the flat position that it came from."""
    if not source.size:
        return np.empty(source.shape, "<U7")
    return np.asarray(colours.reshape(-1)[source])


def _formula(ndim: int, axis: int) -> str:
    """``out[i][j][k] = input[i][index[i][j][k]][k]``."""
    letters = tuple(LETTERS[:ndim])
    return f"{_subscripted('out', letters)} = {_input_term(letters, axis)}"


def _input_term(cell: tuple[Any, ...], axis: int) -> str:
    """``input[i][index[i][j][k]][k]`` of an output cell ``(i, j, k)``."""
    index = _subscripted("index", cell)
    subscripts = tuple(index if d == axis else c for d, c in enumerate(cell))
    return _subscripted("input", subscripts or (index,))


def explain_inverse(input: Any, output: Any) -> Explanation:
    """Show which gathers could have made an output: each dim, and why it fits or what is against.

    Parameters
    ----------
    input, output
        As in :func:`nbgather.infer_gather`; at most 3 dimensions and 256 cells.

    Returns
    -------
    Explanation
        With the index of every dim that fits, and the first cell that rules out one that does not.

    Raises
    ------
    TypeError, ValueError
        As :func:`nbgather.infer_gather`; arrays too large to be shown.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.explain import explain_inverse
    >>> explanation = explain_inverse(np.array([[1, 2], [3, 4]]), np.array([[3, 2], [1, 4]]))
    >>> print(*explanation.lines, sep=chr(10))
    dim 0 fits: index [[1, 0], [0, 1]], the only one
    dim 1 does not: output[0][0] = 3 is not in input[0][:]
    """
    x, y = checked("input", input), checked("output", output)
    solutions = {solution.dim: solution for solution in infer_gather(x, y)}
    colours = source_colours(x.shape, x.size)
    lines, marked, first = [], None, None
    for dim in range(max(x.ndim, 1)):
        solution = solutions.get(dim)
        if solution is not None:
            first = first or solution
            unique = "the only one" if solution.is_unique else "the lowest of several"
            lines.append(f"dim {dim} fits: index {solution.index.tolist()}, {unique}")
            continue
        reason, cell = _reason_against(x, y, dim)
        marked = cell if marked is None else marked
        lines.append(f"dim {dim} does not: {reason}")
    panels = [make_panel("input", x, colours, None)]
    gathered = None
    if first is not None:
        marked = None
        source = gather(np.arange(x.size).reshape(x.shape), first.dim, first.index)
        gathered = _gathered_colours(colours, source)
        panels.append(
            make_panel(f"index, dim {first.dim}", np.asarray(first.index), gathered, None)
        )
    panels.append(make_panel("output", y, gathered, marked))
    return Explanation(panels, lines)


def _reason_against(x: np.ndarray, y: np.ndarray, dim: int) -> tuple[str, tuple[int, ...] | None]:
    """What rules a dim out, and the output's cell that does, if it is one."""
    if x.ndim != y.ndim:
        return f"input has {x.ndim} dimensions and output {y.ndim}", None
    for d, (n, m) in enumerate(zip(x.shape, y.shape, strict=True)):
        if d != dim and m > n:
            return f"output has {m} cells along dimension {d} and input {n}", None
    # Bits are compared, as infer_gather does: a NaN equals itself, and 0 is not -0.
    bits = np.dtype(f"V{x.dtype.itemsize}")
    x_bits, y_bits = np.ascontiguousarray(x).view(bits), np.ascontiguousarray(y).view(bits)
    for cell in itertools.product(*map(range, y.shape)):
        line = tuple(slice(None) if d == dim else c for d, c in enumerate(cell))
        if not (x_bits[line] == y_bits[cell]).any():
            text = _subscripted("input", tuple(":" if d == dim else c for d, c in enumerate(cell)))
            value = value_text(y[cell])
            return f"{_subscripted('output', cell)} = {value} is not in {text}", cell
    return "the shapes do not fit", None


def worked_example() -> tuple[np.ndarray, int, np.ndarray]:
    """The gather of torch's own documentation, one size up."""
    x = np.arange(math.prod((2, 3, 4))).reshape(2, 3, 4)
    return x, 1, np.array([[[0, 1, 2, 0], [2, 0, 0, 1]], [[1, 1, 0, 2], [0, 2, 1, 0]]])
