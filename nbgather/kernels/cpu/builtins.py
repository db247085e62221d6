"""C functions as functions of Python."""

from __future__ import annotations

import ctypes
from typing import Any


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_FASTCALL = 0x0080
_methods: list[_Method] = []  # which the functions refer to

#: The types of the arguments of a C function ``object(self, objects*, count)``.
FASTCALL_TYPES = ("i8",) * 3


def builtin(name: str, address: int) -> Any:
    """A C function ``object(self, objects*, count)`` as a function of Python.

    Calling it takes a tenth of what numba's dispatcher takes, and objects need no conversion.
    """
    method = _Method(name.encode(), address, _FASTCALL, None)
    _methods.append(method)
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    return new(ctypes.addressof(method), None, None)
