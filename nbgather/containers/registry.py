"""Which container serves an array: by the library that its type comes from.

The one place that knows the libraries by name. A container's module is imported when the first
array of its library comes, so nothing is loaded that was not handed in.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NoReturn

from nbgather.containers.base import Container, Run
from nbgather.kernels import forks

#: Library → module with its container, which has a ``Container`` subclass named in it as SERVES.
MODULES = {
    "numpy": "nbgather.containers.numpy",
    "torch": "nbgather.containers.torch",
    "jax": "nbgather.containers.jax",
    "jaxlib": "nbgather.containers.jax",
    "dask": "nbgather.containers.dask",
    "array_api_strict": "nbgather.containers.array_api_strict",
}
#: Tensors on a GPU, and those without memory; arrays that say where their memory on a GPU is:
#: CuPy's, numba's and others'.
TORCH_CUDA = "nbgather.containers.torch_cuda"
TORCH_META = "nbgather.containers.torch_meta"
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

#: The same for kinds of tensors, by the name of their class; `NESTED` for those without one.
NESTED = "torch.nested.to_padded_tensor({what}, 0.0)"
TENSOR_REMEDIES = {
    "NestedTensor": NESTED,
    "DTensor": "{what}.to_local()",
    "MaskedTensor": "{what}.to_tensor(0)",
}

#: Containers by module, and by the exact types that a small call is repeated for.
_containers: dict[str, Container] = {}
exact: dict[type, Container] = {}
#: What executes operations: handed down by :mod:`nbgather.dispatch`.
_engine: list[Run] = []


def hand_down(run: Run) -> None:
    """Let every container hand its operations to this engine."""
    _engine[:] = [run]


def find(array: Any, what: str) -> Container:
    """The container of an array; a TypeError that names the argument where none serves it."""
    module = _module_of(type(array))
    if module is None:
        if not hasattr(array, "__cuda_array_interface__"):
            _refuse(array, what)
        load(CUDA_INTERFACE)
        module = CUDA_INTERFACE
    return _containers[module].locate(array, what)


def require_same(container: Container, array: Any, what: str, other: Any, other_what: str) -> None:
    """Refuse an operand with values that is of another library or device: both are named."""
    second = find(other, other_what)
    if container is second and container.home == "cpu":
        return
    if container.name != second.name:
        raise TypeError(
            f"{what} is a {container.name} array and {other_what} a {second.name} one:"
            " both must be of one library"
        )
    places = container.device(array), second.device(other)
    if places[0] != places[1]:
        raise TypeError(
            f"{what} is on {places[0]} and {other_what} on {places[1]}: both must be on one device"
        )


def load(module: str) -> Container:
    """The one container of a module, made with the engine that it hands operations to."""
    container = _containers.get(module)
    if container is None:
        with forks.held_back():
            container = _containers[module] = importlib.import_module(module).SERVES(_engine[0])
    return container


def _module_of(kind: type) -> str | None:
    """The module with the container of a type, by the library that it comes from; it is loaded."""
    met = exact.get(kind)
    if met is not None:
        return type(met).__module__
    for root in _roots(kind):
        module = MODULES.get(root)
        if module is not None and root in sys.modules:
            container = load(module)
            if container.serves(kind):
                if kind in container.exact_types:
                    exact[kind] = container
                return module
    return None


# torch.compile, which cannot import a module, runs this while it traces and takes the name for a
# constant: nor must a graph see which types were met before, or it is made anew when others come.
# The mark is what torch.compiler.assume_constant_result sets, without a need of torch.
_module_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _roots(kind: type) -> list[str]:
    return [c.__module__.partition(".")[0] for c in kind.__mro__]


def _refuse(array: Any, what: str) -> NoReturn:
    """The TypeError of an array that nobody serves, which says how to hand its data over."""
    kind = type(array)
    if kind.__name__ in TENSOR_REMEDIES and "torch" in _roots(kind):
        raise TypeError(
            f"{what} is a {kind.__module__}.{kind.__qualname__}: a plain tensor is needed, as"
            f" {TENSOR_REMEDIES[kind.__name__].format(what=what)} is"
        )
    remedy = next((REMEDIES[r] for r in _roots(kind) if r in REMEDIES), None)
    hint = "" if remedy is None else f" ({remedy.format(what=what)})"
    raise TypeError(
        f"{what} is a {kind.__module__}.{kind.__qualname__}: an array of NumPy, torch, JAX, Dask,"
        f" CuPy or numba.cuda is needed{hint}"
    )
