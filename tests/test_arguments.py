"""Arguments that are no operands: backends, modes, ratios, counts, axes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import nbgather

CALL = """
import numpy as np, nbgather
{before}
x = np.arange(6.0).reshape(2, 3)
index = np.array([[2], [0]])
assert nbgather.gather(x, 1, index, backend="reference").tolist() == [[2.0], [3.0]]
try:
    nbgather.gather(x, 1, index)
except ImportError as error:
    print(error)
try:
    nbgather.random_masking(x[..., None], 0.5, seed=1)
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("before", ["", "import numba"])
def test_without_a_compiler(before: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CALL.format(before=before)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    expected = (
        "backend 'cpu' is not available: NUMBA_DISABLE_JIT is set, and its kernels are compiled:"
        " unset it, or give backend='reference'\n"
    )
    assert (result.stdout, result.stderr) == (expected * 2, "")


@pytest.mark.parametrize("name", ["cppu", ["cpu"], 3, np.array(["cpu", "torch"]), {}])
def test_a_name_that_is_none(name: object) -> None:
    x = np.zeros((2, 3))
    for call in (
        lambda: nbgather.gather(x, 1, np.zeros((2, 1), int), backend=name),
        lambda: nbgather.random_masking(x[..., None], seed=1, backend=name),
        lambda: nbgather.token_noise(1, 2, 3, backend=name),
    ):
        with pytest.raises(ValueError, match="it must be one of 'cpu', 'cuda', 'reference'"):
            call()


@pytest.mark.parametrize(
    "mode", [["raise"], "rase", None, 3, np.array(["raise", "clip"]), {}, b"raise"]
)
def test_a_mode_that_is_none(mode: object) -> None:
    x, index = np.zeros((2, 3)), np.zeros((2, 1), int)
    for _ in range(3):
        nbgather.gather(x, 1, index)
    for call in (nbgather.gather, nbgather.take_along_axis):
        args = (x, 1, index) if call is nbgather.gather else (x, index, 1)
        with pytest.raises(ValueError, match="it must be one of 'raise', 'clip', 'wrap', 'fill'"):
            call(*args, mode=mode)
    with pytest.raises(ValueError, match="it must be one of 'raise', 'clip', 'wrap', 'fill'"):
        nbgather.gather_tokens(x, index, mode=mode)


@pytest.mark.parametrize(
    ("ratio", "error", "text"),
    [
        ("0.5", TypeError, "mask_ratio is '0.5' of type str: a number is needed"),
        (b"0.5", TypeError, "mask_ratio is b'0.5' of type bytes: a number is needed"),
        (True, TypeError, "mask_ratio is True of type bool: a number is needed"),
        (np.bool_(True), TypeError, "a number is needed"),
        (None, TypeError, "mask_ratio is None of type NoneType: a number is needed"),
        (0.5j, TypeError, "of type complex: a number is needed"),
        (
            np.array([0.5]),
            ValueError,
            "mask_ratio has shape (1,): a number for each of the 2 samples",
        ),
        (np.zeros((2, 1)), ValueError, "mask_ratio has shape (2, 1): a number for each of the 2"),
        (10**400, ValueError, "mask_ratio is inf: it must be between 0 and 1"),
        (float("nan"), ValueError, "mask_ratio is nan: it must be between 0 and 1"),
        (-0.1, ValueError, "mask_ratio is -0.1: it must be between 0 and 1"),
    ],
)
def test_a_ratio_that_is_none(ratio: object, error: type[Exception], text: str) -> None:
    x = np.zeros((2, 4, 1))
    for _ in range(3):
        nbgather.random_masking(x, 1.0, seed=1)
    with pytest.raises(error) as caught:
        nbgather.random_masking(x, ratio, seed=1)
    assert text in str(caught.value)


def test_ratios_and_counts_as_arrays_without_dimensions() -> None:
    x = np.arange(8.0).reshape(2, 4, 1)
    expected = nbgather.random_masking(x, 0.5, seed=1)
    for _ in range(3):
        for got in (
            nbgather.random_masking(x, np.array(0.5), seed=1),
            nbgather.random_masking(x, np.float32(0.5), seed=1),
            nbgather.random_masking(x, num_keep=np.array(2), seed=1),
            nbgather.random_masking(x, num_keep=np.int8(2), seed=1),
        ):
            assert all(np.array_equal(a, b) for a, b in zip(got, expected))


def test_an_axis_of_an_array_without_dimensions() -> None:
    """NumPy's own exception, which is an IndexError."""
    for axis in (0, -1, 1):
        for call in (np.take_along_axis, nbgather.take_along_axis):
            with pytest.raises(np.exceptions.AxisError):
                call(np.array(5.0), np.array(0), axis)
    with pytest.raises(IndexError, match="axis 2 is out of range for 2 dimensions: -2 to 1"):
        nbgather.take_along_axis(np.zeros((2, 3)), np.zeros((2, 3), int), 2)
