"""Which container serves an array: by the library that its type comes from.

The one place that knows the libraries by name. A container's module is imported when the first
array of its library comes, so nothing is loaded that was not handed in.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from nbgather.containers.base import Container, Run

#: Library → module with its container, which has a ``Container`` subclass named in it as SERVES.
MODULES = {
    "numpy": "nbgather.containers.numpy",
    "torch": "nbgather.containers.torch",
    "jax": "nbgather.containers.jax",
    "jaxlib": "nbgather.containers.jax",
    "dask": "nbgather.containers.dask",
    "array_api_strict": "nbgather.containers.array_api_strict",
}
#: Tensors on a GPU; arrays that say where their memory on one is: CuPy's, numba's and others'.
TORCH_CUDA = "nbgather.containers.torch_cuda"
CUDA_INTERFACE = "nbgather.containers.cuda_interface"

#: Library → how its data is handed over, for `what`.
REMEDIES = {
    "pandas": "pass {what}.to_numpy()",
    "xarray": "pass {what}.data, or apply it by xarray.apply_ufunc",
    "polars": "pass {what}.to_numpy()",
    "pyarrow": "pass {what}.to_numpy(zero_copy_only=False)",
    "h5py": "read it first, {what}[...], or pass dask.array.from_array({what})",
    "zarr": "read it first, {what}[...], or pass dask.array.from_zarr({what})",
    "awkward": "pass awkward.to_numpy({what})",
    "scipy": "pass {what}.toarray()",
    "sparse": "pass {what}.todense()",
    "tensorflow": "pass {what}.numpy()",
}

#: Containers by module, and by the exact types that a small call is repeated for.
_containers: dict[str, Container] = {}
exact: dict[type, Container] = {}


def find(array: Any, what: str, run: Run) -> Container:
    """The container of an array; a TypeError that names the argument where none serves it."""
    container = exact.get(type(array))
    if container is None:
        container = _find(array, what, run)
        if type(array) in container.exact_types:
            exact[type(array)] = container
    return container.locate(array, what)


def load(module: str, run: Run) -> Container:
    """The one container of a module, made with the engine that it hands operations to."""
    container = _containers.get(module)
    if container is None:
        container = _containers[module] = importlib.import_module(module).SERVES(run)
    return container


def _find(array: Any, what: str, run: Run) -> Container:
    roots = [c.__module__.partition(".")[0] for c in type(array).__mro__]
    for root in roots:
        module = MODULES.get(root)
        if module is not None and root in sys.modules:
            container = load(module, run)
            if container.serves(array):
                return container
    if hasattr(array, "__cuda_array_interface__"):
        return load(CUDA_INTERFACE, run)
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    remedy = next((REMEDIES[r] for r in roots if r in REMEDIES), None)
    hint = "" if remedy is None else f" ({remedy.format(what=what)})"
    raise TypeError(
        f"{what} is a {kind}: an array of NumPy, torch, JAX, Dask, CuPy or numba.cuda is"
        f" needed{hint}"
    )
