"""What stands for array-api-compat where it is not installed: the few functions that are used."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Completed(ModuleType):
    """A library's namespace, with what the array API standard names otherwise."""

    def __init__(self, name: str, library: str, **functions: Any) -> None:
        super().__init__(name)
        self.__dict__.update(functions)
        self.__dict__["_library"] = library

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self._library), name)


def install() -> bool:
    """Stand in for array-api-compat if it is missing; whether it is."""
    if "array_api_compat" in sys.modules or importlib.util.find_spec("array_api_compat"):
        return False

    def cast(array: Any, dtype: Any, copy: bool = True) -> Any:
        return array.to(dtype, copy=copy)

    def permuted(array: Any, axes: Any) -> Any:
        return array.permute(tuple(axes))

    package = ModuleType("array_api_compat")
    package.__path__ = []  # a package, of what is put beside it here
    sys.modules["array_api_compat"] = package
    for library, functions in (
        ("torch", {"astype": cast, "permute_dims": permuted}),
        ("numpy", {}),
        ("cupy", {}),
    ):
        name = f"array_api_compat.{library}"
        module = sys.modules[name] = _Completed(name, library, **functions)
        setattr(package, library, module)
    return True
