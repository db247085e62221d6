"""Functions that numba compiles once for all who call them, and public functions made of such.

Not by ``njit``: each function of it is made ready to be called from Python, and is put through all
passes again for each of its callers' layers. A subroutine is linked to what calls it and that is
all. Its code is kept in the user's cache beside the kernels, so that a process compiles what is
the user's own.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import types as python_types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from numba import types
from numba.core import cgutils, compiler, errors, serialize
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template
from numba.extending import intrinsic

from nbgather.kernels.cpu import cache, folds


class _Compiled(NamedTuple):
    """A subroutine: numba's description, and by their names the modules of it and all it calls."""

    description: Any
    modules: dict[str, bytes]


class _Library:
    """What numba links to a function: a module that is as good as finished."""

    _reload_init: frozenset[Any] = frozenset()

    def __init__(self, module: bytes) -> None:
        self.module = module

    def _ensure_finalized(self) -> None:
        pass

    def _get_module_for_linking(self) -> Any:
        return llvm.parse_bitcode(self.module)


#: The subroutines known, by what they are.
_known: dict[Any, _Compiled] = {}
#: The modules of what each subroutine calls that is being compiled: the innermost comes last.
_called: list[dict[str, bytes]] = []


@functools.cache
def _sources() -> str:
    """The digest of what is compiled here; kernels have one of their own.

    What reductions make of numbers is the kernels' too.
    """
    state = hashlib.blake2s(digest_size=16)
    for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(folds.__file__)):
        state.update(path.read_bytes())
    return state.hexdigest()


def _compiled(
    context: Any, function: Any, signature: Any, symbol: str, attribute: str | None
) -> _Compiled:
    """Compile a function as far as LLVM's modules: the rest is done where they are linked."""
    library = context.codegen().create_library(function.__name__)
    flags = compiler.Flags()
    flags.nrt = flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    _called.append({})
    try:
        result = compiler.compile_internal(
            context.typing_context, context, library, function, signature.args,
            signature.return_type, flags, {},
        )  # fmt: skip
    finally:
        modules = _called.pop()
    own = library._final_module
    for part in library._linking_libraries:
        own.link_in(part._get_module_for_linking(), preserve=True)
    for one in own.functions:
        if not one.is_declaration and one.linkage == llvm.Linkage.external:
            one.linkage = llvm.Linkage.linkonce_odr
    description = result.fndesc
    description.typemap = description.calltypes = None
    # numba's names have numbers in them that mean something else in another process.
    own.get_function(description.mangled_name).name = symbol
    description.mangled_name = symbol
    if attribute is not None:
        own = _with_attribute(own, symbol, attribute)
    modules[symbol] = own.as_bitcode()
    return _Compiled(description, modules)


def _with_attribute(module: Any, symbol: str, attribute: str) -> Any:
    """A module whose function has an attribute, by its text: llvmlite 0.44 puts it elsewhere."""
    define = re.compile(rf"^(define [^\n]*@{symbol}\([^\n]*) {{$", re.MULTILINE)
    text, count = define.subn(rf"\1 {attribute} {{", str(module))
    return llvm.parse_assembly(text) if count == 1 else module


def _kept(context: Any, function: Any, signature: Any, key: Any) -> _Compiled:
    """A function's code, of this process, of the cache or compiled."""
    name = (function.__module__, function.__qualname__, key, str(signature))
    if name in _known:
        return _known[name]
    parameters = *name, _sources(), str(context.codegen().magic_tuple())
    entry = cache.entry("numba_ext", function.__name__, parameters)
    code = entry.read()
    if code is None:
        attribute = getattr(function, "attribute", None)
        _known[name] = _compiled(context, function, signature, entry.symbol, attribute)
        entry.write(serialize.dumps(tuple(_known[name])))
    else:
        _known[name] = _Compiled(*serialize.pickle.loads(code))
    return _known[name]


def call(
    context: Any, builder: Any, function: Any, signature: Any, values: Any, key: Any = ()
) -> Any:
    """Call a function of plain Python, compiled for a signature, from compiled code.

    ``key`` is all that the function depends on beside its source and its signature.
    """
    compiled = _kept(context, function, signature, key)
    if _called:
        # All are linked to the user's function at last, and optimised once.
        _called[-1].update(compiled.modules)
    else:
        library = context.active_code_library
        linked = library.__dict__.setdefault("_nbgather_linked", set())
        # Callers first: what nothing refers to is not linked.
        for name, module in reversed(compiled.modules.items()):
            if name not in linked:
                linked.add(name)
                library.add_linking_library(_Library(module))
    return context.call_internal(builder, compiled.description, signature, values)


def subroutine(signature: Any, key: Any = ()) -> Callable[[Any], Any]:
    """Make an intrinsic of a function, which is compiled for one signature."""

    def decorate(function: python_types.FunctionType) -> Any:
        def typed(typingctx, *arguments):
            def codegen(context, builder, sig, values):
                return call(context, builder, function, signature, values, key)

            return signature, codegen

        parameters = inspect.signature(function).parameters.values()
        context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        typed.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        typed.__name__ = typed.__qualname__ = function.__name__
        typed.__doc__ = function.__doc__
        made = intrinsic(typed)

        def emit(context: Any, builder: Any, *values: Any) -> Any:
            """The call, from where code is written for LLVM."""
            return call(context, builder, function, signature, values, key)

        made.emit = emit
        return made

    return decorate


def inlined(function: Any) -> Any:
    """Have LLVM put a subroutine in the place of its calls."""
    function.attribute = "alwaysinline"
    return function


def apart(function: Any) -> Any:
    """Have LLVM leave a subroutine where it is, since it is hardly ever called."""
    function.attribute = "noinline"
    return function


def of_numbers(count: int, result: Any = types.int64, key: Any = ()) -> Callable[[Any], Any]:
    """:func:`subroutine` of so many int64, which may be addresses."""
    return subroutine(result(*[types.int64] * count), key)


def defined(name: str, kinds: tuple[Any, ...], made: Any) -> Any:
    """What numba asks of an intrinsic, its signature and what writes its code.

    ``kinds`` are the types of the arguments, or values of those that were not given. ``made`` is
    the result's type, and ``write(context, builder, kinds, values)``, which gives the result. It
    writes a function of its own, so that it may raise wherever it likes.
    """
    result, write = made
    kinds = tuple(k if isinstance(k, types.Type) else types.Omitted(k) for k in kinds)
    plain = tuple(map(types.unliteral, kinds))
    # What is written may depend on a text that is a constant.
    told = tuple(k if isinstance(k, types.StringLiteral) else p for k, p in zip(kinds, plain))
    given = [k for k, kind in enumerate(plain) if not isinstance(kind, types.Omitted)]
    packed = types.Tuple([plain[k] for k in given])

    @intrinsic
    def body(typingctx, arguments):
        def codegen(context, builder, sig, values):
            parts = dict(zip(given, cgutils.unpack_tuple(builder, values[0]), strict=True))
            return write(context, builder, plain, [parts.get(k) for k in range(len(plain))])

        return result(packed), codegen

    def function(arguments):
        return body(arguments)

    def codegen(context, builder, sig, values):
        parts = [context.cast(builder, values[k], kinds[k], plain[k]) for k in given]
        one = context.make_tuple(builder, packed, parts)
        return call(context, builder, function, result(packed), [one], (name, str(told)))

    return result(*kinds), codegen


def public(function: Any, definition: Any) -> None:
    """Have numba use what ``definition`` gives, see `defined`, wherever a function is called.

    ``definition`` has the parameters of the function. It may give a text instead: why there is
    nothing for these types.
    """

    def typed(typingctx, *given, **named):
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        kinds = tuple(bound.arguments.values())
        made = definition(*kinds)
        if isinstance(made, str):
            raise errors.TypingError(f"nbgather.{made}")
        return defined(function.__qualname__, kinds, made)

    signature = inspect.signature(definition)
    context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [context, *signature.parameters.values()]
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    template = make_intrinsic_template(function, typed, function.__name__)
    infer(template)
    infer_global(function, types.Function(template))
