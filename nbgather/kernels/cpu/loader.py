"""Object code in this process: LLVM's loader, which needs neither numba nor a compiler.

Addresses stay valid to the end of the process: threads of ours may be inside of the code while the
interpreter shuts down.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from typing import Any

import llvmlite.binding as llvm

_lock = threading.Lock()

#: What numba, which compiles the code, can be told about the processor by the environment.
_PROCESSOR_VARIABLES = ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX")


def _renew_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


def function_pointer(function: Any) -> int:
    """The address of a function of a library that ctypes has loaded."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def _engine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    # One reference more than there will ever be to drop.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    return engine


def load(code: bytes, symbol: str) -> int:
    """Load object code that defines a function, once for each symbol; the function's address."""
    with _lock:
        engine = _engine()
        address = int(engine.get_function_address(symbol))
        if not address:
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
            engine.finalize_object()
            address = int(engine.get_function_address(symbol))
        return address


@functools.cache
def _features() -> dict[str, bool]:
    return dict(llvm.get_host_cpu_features())


def has_features(names: tuple[str, ...]) -> bool:
    """Whether this processor has all of some features, by LLVM's names."""
    features = _features()
    return all(features.get(name, False) for name in names)


@functools.cache
def _host() -> tuple[str, str, str]:
    features = llvm.get_host_cpu_features()
    return (
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        features.flatten() if len(features) else "",
    )


def told() -> list[str]:
    """What numba is told about the processor."""
    return [os.environ.get(f"NUMBA_{name}", "") for name in _PROCESSOR_VARIABLES]


def processor() -> tuple[str, ...]:
    """The processor that code is compiled for: triple, name, features, and what numba is told."""
    return (*_host(), *told())
