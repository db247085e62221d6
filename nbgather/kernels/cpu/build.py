"""Object code from the kernels' sources, by numba.

A function becomes C code that calls nothing of numba's: no objects of its runtime.
What is left undefined in it is of the C library or of Python's C API.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import compiler, registry
from numba.core.compiler_lock import global_compiler_lock

from nbgather.kernels.cpu import loader
from nbgather.kernels.cpu.compiler import Function

_TYPES = {
    "u1": types.uint8,
    "u2": types.uint16,
    "u4": types.uint32,
    "u8": types.uint64,
    "u8x2": types.UniTuple(types.uint64, 2),
    "i1": types.int8,
    "i2": types.int16,
    "i4": types.int32,
    "i8": types.int64,
    "f4": types.float32,
    "f8": types.float64,
    "c8": types.complex64,
    "c16": types.complex128,
}


#: No kernel divides by zero, and yet it counts whether that is checked. A loop with the check in it
#: is not made of vectors: normalising pixels takes four times as long. Where there is none in the
#: loop, LLVM unrolls others by the check outside: rows are copied up to a third faster.
_ERROR_MODELS = {"make_normal_patches": "numpy"}


def _type(text: str) -> Any:
    return types.CPointer(_TYPES[text[1:]]) if text.startswith("*") else _TYPES[text]


def object_code(function: Function, symbol: str) -> tuple[bytes, bool]:
    """Compile a function under a symbol: its object code, and whether it may be kept.

    It may not where numba was told by its module, and not by the environment, to compile for
    another processor than this one.

    Raises
    ------
    RuntimeError
        The code refers to something that cannot be found at another start.
    """
    module = importlib.import_module(f"{__package__}.{function.module}")
    source = getattr(module, function.name)
    if function.traits is not None:
        source = source(*function.traits)
    source = getattr(source, "py_func", source)
    with global_compiler_lock:
        arguments = [_type(text) for text in function.types]
        return _compile(source, arguments, symbol, _ERROR_MODELS.get(function.name, "python"))


def _compile(
    source: Any, arguments: list[Any], symbol: str, error_model: str = "python"
) -> tuple[bytes, bool]:
    target = registry.cpu_target
    target.typing_context.refresh()
    target.target_context.refresh()
    flags = compiler.Flags()
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.no_compile = True
    flags.error_model = error_model
    compiled = compiler.compile_extra(
        target.typing_context, target.target_context, source, arguments, types.int64, flags, {}
    )
    library = compiled.library
    _add_entry_point(library, compiled, arguments, symbol)
    library.finalize()
    final = library._final_module
    _check_references(final, symbol)
    codegen = compiled.target_context.codegen()
    code: bytes = codegen._tm.emit_object(final)
    return code, _host_cpu(codegen) == _named_cpu()


def _add_entry_point(library: Any, compiled: Any, arguments: list[Any], symbol: str) -> None:
    """Add a C function that calls the compiled one, whose own convention has a status beside."""
    context = compiled.target_context
    module = library.create_ir_module(symbol)
    kinds = [context.get_value_type(kind) for kind in arguments]
    signature = ir.FunctionType(context.get_value_type(types.int64), kinds)
    entry = ir.Function(module, signature, symbol)
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    callee = context.declare_function(module, compiled.fndesc)
    _, result = context.call_conv.call_function(builder, callee, types.int64, arguments, entry.args)
    builder.ret(result)
    library.add_ir_module(module)


def _check_references(module: Any, symbol: str) -> None:
    """LLVM ends the process when it loads code whose references cannot be resolved."""
    for function in module.functions:
        name = function.name
        if function.is_declaration and not name.startswith("llvm."):
            if name.startswith(("numba", "NRT")) or not llvm.address_of_symbol(name):
                raise RuntimeError(f"{symbol} needs {name}, which is not there without numba")


def _host_cpu(codegen: Any) -> str:
    return str(codegen.magic_tuple()[1])


def _named_cpu() -> str:
    return os.environ.get("NUMBA_CPU_NAME", "") or loader.processor()[1]
