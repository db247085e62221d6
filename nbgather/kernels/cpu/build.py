"""Object code from the kernels' sources, by numba.

A function becomes C code that calls nothing of numba's: no objects of its runtime.
What is left undefined in it is of the C library or of Python's C API.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import importlib
import os
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import compiler, registry
from numba.core import ir as ir_of_numba
from numba.core.compiler_lock import global_compiler_lock

from nbgather.kernels.cpu import loader
from nbgather.kernels.cpu.compiler import Function
from nbgather.kernels.cpu.words import PAUSE

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


#: By the processor's name in LLVM's triple: the instruction for a loop that waits.
_PAUSES = {
    "x86_64": "declare void @llvm.x86.sse2.pause() call void @llvm.x86.sse2.pause()",
    "aarch64": "declare void @llvm.aarch64.hint(i32) call void @llvm.aarch64.hint(i32 1)",
}
_PAUSES["arm64"] = _PAUSES["aarch64"]
# numba loads what it compiled for our functions as well and calls none of it: any one will do.
llvm.add_symbol(PAUSE, loader.function_pointer(ctypes.pythonapi.Py_IsInitialized))


def _type(text: str) -> Any:
    return types.CPointer(_TYPES[text[1:]]) if text.startswith("*") else _TYPES[text]


def object_code(function: Function, symbol: str) -> tuple[bytes, bool]:
    """Compile a function for this processor: its object code, and whether it may be kept.

    It may not where numba was told by its module, and not by the environment, to compile for
    another processor than this one.

    Raises
    ------
    RuntimeError
        The code refers to something that cannot be found at another start.
    """
    with global_compiler_lock:
        module = linked(function, symbol)
        codegen = registry.cpu_target.target_context.codegen()
        code = emitted(module, symbol, codegen._tm)
        return code, _host_cpu(codegen) == _named_cpu()


#: What a scope of numba's has: where it has more, it is copied as it copies itself.
_OF_SCOPE = {"parent", "localvars", "loc", "redefined", "var_redefinitions"}


def _copy_scope(scope: Any, memo: dict[int, Any]) -> Any:
    new = ir_of_numba.Scope(scope.parent, scope.loc)
    memo[id(scope)] = new
    new.localvars._con = dict(scope.localvars._con)
    new.redefined.update(scope.redefined)
    for name, others in scope.var_redefinitions.items():
        new.var_redefinitions[name] = set(others)
    return new


@contextlib.contextmanager
def _quick_copies() -> Iterator[None]:
    """Have numba copy a scope, and not all that its variables refer to, for each block it inlines.

    That is two fifths of the time it takes to compile a kernel. Whoever compiles holds the lock.
    """
    scope = ir_of_numba.Scope
    if vars(scope(None, ir_of_numba.unknown_loc)).keys() != _OF_SCOPE or hasattr(
        scope, "__deepcopy__"
    ):
        yield
        return
    scope.__deepcopy__ = _copy_scope
    try:
        yield
    finally:
        del scope.__deepcopy__


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Collect no garbage while numba makes and keeps a million objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def linked(function: Function, symbol: str) -> Any:
    """The module of LLVM that has all of a function, before it is optimised for a processor."""
    module = importlib.import_module(f"{__package__}.{function.module}")
    source = getattr(module, function.name)
    if function.traits is not None:
        source = source(*function.traits)
    source = getattr(source, "py_func", source)
    arguments = [_type(text) for text in function.types]
    with global_compiler_lock, _quick_copies(), _no_collections():
        target = registry.cpu_target
        target.typing_context.refresh()
        target.target_context.refresh()
        flags = compiler.Flags()
        flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        flags.no_compile = True
        flags.error_model = _ERROR_MODELS.get(function.name, "python")
        compiled = compiler.compile_extra(
            target.typing_context, target.target_context, source, arguments, types.int64, flags, {}
        )
        library = compiled.library
        _add_entry_point(library, compiled, arguments, symbol)
        whole = library._final_module
        for part in library._linking_libraries:
            whole.link_in(part._get_module_for_linking(), preserve=True)
    # What is called is put in place of its calls, and nothing is left of it otherwise. Where it is
    # called, its name is kept: numba's depends on what was compiled before.
    for k, item in enumerate((*whole.functions, *whole.global_variables)):
        if not item.is_declaration and item.name != symbol:
            item.linkage, item.name = "internal", f"part.{k}"
    return whole


def emitted(module: Any, symbol: str, machine: Any) -> bytes:
    """The object code of a module, which is changed, for a target machine."""
    codegen = copy.copy(registry.cpu_target.target_context.codegen())
    codegen._tm = machine
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    _define_pause(module)
    # The passes of numba, in its order: the first puts functions in the place of their calls.
    for options in (
        {"loop_vectorize": codegen._loopvect, "slp_vectorize": False, "opt": codegen._opt_level,
         "cost": "cheap"},
        {},
    ):  # fmt: skip
        passes, builder = codegen._module_pass_manager(**options)
        passes.run(module, builder)
    module.verify()
    _check_references(module, symbol)
    code: bytes = machine.emit_object(module)
    return code


def _define_pause(module: Any) -> None:
    """Give the function of `words.pause` its instruction, or nothing where none is known."""
    if PAUSE not in [function.name for function in module.functions]:
        return
    known = _PAUSES.get(module.triple.partition("-")[0], "")
    declaration, _, call = known.partition(" call ")
    body = f"call {call}" if call else ""
    module.link_in(
        llvm.parse_assembly(
            f"{declaration}\ndefine void @{PAUSE}() alwaysinline {{\n{body}\nret void\n}}"
        )
    )
    module.get_function(PAUSE).linkage = "internal"


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
