"""The engine: an operation on arrays that have memory, by the kernels of a backend."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from nbgather.engine.out import into
from nbgather.kernels import forks
from nbgather.kernels.cpu import limits
from nbgather.operations.base import Apply, Operation, Options, is_array

#: What executes each operation: a function of a module of this package, which is imported at the
#: first call. It may give NotImplemented: then the operation's lowering does it.
EXECUTORS = {
    "Gather": "gather.gather",
    "TakeAlongAxis": "gather.gather",
    "TakeInBounds": "gather.gather",
    "GatherTokens": "gather.gather",
    "KeepTokens": "gather.keep",
    "RestoreTokens": "gather.restore",
    "Scatter": "scatter.scatter",
    "ScatterAdd": "scatter.scatter",
    "ScatterReduce": "scatter.scatter",
    "SegmentReduce": "segments.segment_reduce",
    "GatherReduce": "segments.gather_reduce",
    "CheckedBounds": "segments.checked",
    "TokenNoise": "masking.token_noise",
    "RankTokens": "masking.rank_tokens",
    "ChooseTokens": "masking.choose_tokens",
    "RandomMasking": "masking.random_masking",
    "KeepPacked": "packing.keep",
    "CutPacked": "packing.cut",
    "CutPatches": "patches.cut_patches",
    "MaskedPatchify": "patches.masked_patchify",
    "Patchify": "patches.patchify",
    "Unpatchify": "patches.unpatchify",
    "Score": "scores.score",
    "Tube": "scores.tube",
    "Stripes": "scores.stripes",
    "MultiBlock": "scores.multiblock",
    "MultiBlockIds": "scores.multiblock_ids",
    "OwnScores": "scores.own_scores",
    "InferGather": "infer.infer_gather",
}


#: What is looked at of the values of operands on the host before an operation is lowered.
CHECKS = {"SegmentReduce": "segments.check_bounds", "GatherReduce": "segments.check_bounds"}


def _module(name: str) -> ModuleType:
    with forks.held_back():
        return importlib.import_module(f"nbgather.engine.{name}")


def _function(name: str) -> Any:
    module, _, function = name.partition(".")
    return getattr(_module(module), function)


_executors: dict[type[Operation], Any] = {}


def _executor(kind: type[Operation]) -> Any:
    """What executes operations of a kind, or None."""
    executor = _executors.get(kind)
    if executor is None and kind.__name__ in EXECUTORS:
        executor = _executors[kind] = _function(EXECUTORS[kind.__name__])
    return executor


def run(container: Any, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
    """Execute an operation on arrays of one container.

    Parameters
    ----------
    container : Container
        Of :mod:`nbgather.containers`; it is asked for the parts of an operation that is lowered for
        a gradient.
    operation : Operation
    operands : tuple of array
        Arrays with memory, None, or numbers where the operation takes them.
    options : Options

    Returns
    -------
    array, tuple of arrays, or list of GatherSolution
    """
    executor = None if options.lower else _executor(type(operation))
    result: Any = NotImplemented
    if executor is not None:
        count = container.num_threads()
        if count is None or count == limits.default():
            result = executor(container, operation, operands, options)
        else:
            with limits.default_of_library(count):
                result = executor(container, operation, operands, options)
    if result is NotImplemented:
        specs = [container.spec(o) if is_array(o) else None for o in operands]
        operation.check(*specs)
        if container.home == "cpu" and type(operation).__name__ in CHECKS:
            _function(CHECKS[type(operation).__name__])(container, operation, operands)
        result = operation.lower(_parts(container, operands[0], options), *operands)
        if operation.may_pad:
            result = _module("masking").with_valid(container, operation, operands[0], result)
        if options.out is not None:  # which its executor has looked at
            result = into(container, result, options.out)
    return result


def _parts(container: Any, array: Any, options: Options) -> Apply:
    """What runs the operations that one is made of: the container, or the engine at once.

    Where a kernel might have run, no gradient and no trace is to see the parts; on a device some
    parts are for the container.
    """
    if options.lower or container.home != "cpu":
        apply: Apply = container.apply(array, options.backend)
        return apply
    plain = Options(None, options.backend)
    return Apply(
        lambda operation, *operands: run(container, operation, operands, plain),
        lambda: container.namespace(array),
    )
