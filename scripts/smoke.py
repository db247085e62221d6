"""What must work where nbgather is installed with its core dependencies alone."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys

import numpy as np

import nbgather
from nbgather.apps.selftest import run as selftest


def main() -> None:
    installed = {d.name for d in importlib.metadata.distributions()} - {"pip", "setuptools"}
    assert installed == {"nbgather", "numba", "llvmlite", "numpy", "array-api-compat"}, installed
    generator = np.random.default_rng(0)
    x = generator.random((8, 50, 12), np.float32)
    index = generator.integers(0, 50, (8, 20, 12))
    want = np.take_along_axis(x, index, 1)
    for backend in (None, "reference"):
        assert nbgather.gather(x, 1, index, backend=backend).tobytes() == want.tobytes()
    assert nbgather.take_along_axis(x, index - 50, 1).tobytes() == want.tobytes()
    made = nbgather.random_masking(x, 0.75, seed=3)
    again = nbgather.random_masking(x, 0.75, seed=3, backend="reference")
    assert all(a.tobytes() == b.tobytes() for a, b in zip(made, again, strict=True))
    whole = nbgather.restore_tokens(made.x_masked, made.ids_restore, 0.0)
    assert np.array_equal(whole[made.mask == 0], x[made.mask == 0])
    images = generator.integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    scores = nbgather.strategies.block(0, 2, (4, 4))
    assert nbgather.masked_patchify(images, 8, noise=scores, scale=1 / 255).x_masked.shape[1] == 4
    index[1, 2, 3] = 50
    try:
        nbgather.gather(x, 1, index)
    except IndexError as error:
        assert "index 50 at (1, 2, 3)" in str(error)  # noqa: PT017
    else:
        raise AssertionError("a bad index passed")
    report = selftest.run("cpu", quick=True)
    assert not report.different, report.different
    for name, needs in (("onnx", "onnx"), ("dask", "dask")):
        code = f"import nbgather.{name}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f'pip install "nbgather[{needs}]"' in done.stderr, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "nbgather", "info"], capture_output=True, text=True
    )
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert "pip install" in done.stderr
    print(f"Python {platform.python_version()}, numpy {np.__version__}: the wheel works alone")


if __name__ == "__main__":
    main()
