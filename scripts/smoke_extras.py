"""Each extra that is installed, used once and compared with NumPy; prints their versions.

python scripts/smoke_extras.py [torch onnx jax dask cli]   # which must be there
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import numpy as np

x = np.arange(24, dtype="f4").reshape(2, 4, 3)
i = np.array([[[3, 0, 1]], [[2, 2, 0]]])
want = np.take_along_axis(x, i, 1)


def check_torch() -> None:
    import torch

    import nbgather.torch

    t = torch.from_numpy(x).requires_grad_()
    result = nbgather.gather(t, 1, torch.from_numpy(i))
    result.sum().backward()
    assert np.array_equal(result.detach().numpy(), want)
    assert t.grad.sum() == want.size
    masked = nbgather.torch.RandomMasking(0.5)(torch.ones(2, 4, 3), sample_ids=torch.arange(2))
    assert masked[0].shape == (2, 2, 3)


def check_onnx() -> None:
    import nbgather.onnx

    assert np.array_equal(nbgather.gather(x, 1, i, backend="onnxruntime"), want)
    model = nbgather.onnx.masking_model(0.5, noise="seed")
    assert nbgather.onnx.verify(model)


def check_jax() -> None:
    import jax

    import nbgather.jax

    assert np.array_equal(nbgather.gather(jax.numpy.asarray(x), 1, i), want)
    assert np.array_equal(jax.jit(lambda a: nbgather.gather(a, 1, i))(x), want)


def check_dask() -> None:
    import dask.array

    import nbgather.dask

    chunked = dask.array.from_array(x, chunks=(1, 2, 3))
    assert np.array_equal(nbgather.gather(chunked, 1, i).compute(), want)


def check_cli() -> None:
    for words in (["--help"], ["info"], ["selftest", "--quick"]):
        done = subprocess.run([sys.executable, "-m", "nbgather", *words], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-500:]


EXTRAS = {
    "torch": (check_torch, ("torch",)),
    "onnx": (check_onnx, ("onnx", "onnxruntime")),
    "jax": (check_jax, ("jax",)),
    "dask": (check_dask, ("dask", "zarr")),
    "cli": (check_cli, ("typer", "rich")),
}


def main() -> None:
    versions = []
    for name in sys.argv[1:] or EXTRAS:
        check, packages = EXTRAS[name]
        check()
        versions += [f"{p} {importlib.metadata.version(p)}" for p in packages]
    print(*versions, sep=", ")


if __name__ == "__main__":
    main()
