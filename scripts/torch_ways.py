"""The worlds of torch: ways in which it runs a program, for ``scripts/torch_worlds.py``."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch_cases import CASES, N, flat, same
from torch_derivatives import (
    Call,
    backward,
    backward_by_compiled,
    backward_of_compiled,
    batched_backward,
    derivative,
    forward_mode,
    grad_vmap,
    hessian,
    linearize,
    places,
    stacked,
    vjp,
    vmap_grad,
)  # fmt: skip

#: Calls that are for one number of samples.
FIXED = {case.ours for case in CASES.values() if not case.any_count}
func = torch.func
SEED = 5


class World(NamedTuple):
    """``run(call, args)`` in this world, and what its results must be."""

    run: Callable[[Call, tuple[Any, ...]], Any]
    #: "world": those of torch's operators in the same world. "plain": outside of it. "shapes": of
    #: the same shapes and dtypes. "stacked": those of each sample outside of it.
    expects: str = "world"
    #: What every call is refused with in this world.
    refuses: str = ""
    #: Whether it takes seconds.
    slow: bool = False
    #: Whether it takes minutes: such worlds are tried for the table, and in the weekly tests.
    weekly: bool = False


class Wrong(Exception):
    """A result that is not the expected one."""


# Tracers


def _compiled(dynamic: bool, backend: str = "aot_eager") -> Callable[..., Any]:
    def run(call: Call, args: tuple[Any, ...]) -> Any:
        from torch._dynamo.testing import CompileCounterWithBackend

        torch._dynamo.reset()
        counter = CompileCounterWithBackend(backend)
        compiled = torch.compile(call, fullgraph=True, dynamic=dynamic or None, backend=counter)
        with torch._inductor.config.patch(fallback_random=True):  # the eager numbers
            result = compiled(*args)
        if dynamic:  # twice as many samples, by the same graph
            torch.manual_seed(SEED)
            count, doubled = counter.frame_count, _doubled(call, args)
            expect(compiled(*doubled), _seeded(call, doubled))
            if counter.frame_count > count:
                raise Wrong("compiled again")
        return result

    return run


def _doubled(call: Call, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if call in FIXED:
        return args
    return tuple(torch.cat([a, a]) if len(a) == N else a for a in args)


def _compiled_hessian(call: Call, args: tuple[Any, ...]) -> Any:
    """A transform within a graph, and a graph's own gradient."""
    torch._dynamo.reset()
    return torch.compile(hessian, fullgraph=True, backend="aot_eager")(call, args)


class _Module(torch.nn.Module):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, *args: Any) -> Any:
        return self.call(*args)


def _traced(call: Call, args: tuple[Any, ...]) -> Any:
    graph = make_fx(lambda *operands: call(*operands), tracing_mode="symbolic")(*args)
    torch.manual_seed(SEED)
    return graph(*args)


def _exported_open(call: Call, args: tuple[Any, ...]) -> Any:
    """With every size left open that the call leaves open, and run at another."""
    doubled = _doubled(call, args)
    open_sizes = tuple(
        {0: torch.export.Dim.DYNAMIC} if len(a) != len(b) else None
        for a, b in zip(args, doubled, strict=True)
    )
    program = torch.export.export(_Module(call), args, dynamic_shapes=(open_sizes,))
    torch.manual_seed(SEED)
    got = program.module()(*doubled)
    expect(got, _seeded(call, doubled))
    torch.manual_seed(SEED)
    return program.module()(*args)


def _exported(call: Call, args: tuple[Any, ...]) -> Any:
    program = torch.export.export(_Module(call), args)
    torch.manual_seed(SEED)
    return program.module()(*args)


def _packaged(call: Call, args: tuple[Any, ...]) -> Any:
    program = torch.export.export(_Module(call), args)
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(
            program,
            package_path=f"{folder}/model.pt2",
            inductor_configs={"fallback_random": True},  # eager's numbers
        )
        torch.manual_seed(SEED)
        return torch._inductor.aoti_load_package(path)(*args)


# Modes and kinds of tensors


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Dispatches(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _within(*contexts: Callable[[], Any]) -> Callable[..., Any]:
    def run(call: Call, args: tuple[Any, ...]) -> Any:
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            return call(*args)

    return run


@contextlib.contextmanager
def _deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def _default_device() -> Any:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


def _saved(call: Call, args: tuple[Any, ...]) -> Any:
    stream = io.BytesIO()
    torch.save(call(*copy.deepcopy(args)), stream)
    stream.seek(0)
    return torch.load(stream)


def _checkpoint(reentrant: bool) -> Callable[..., Any]:
    def run(function: Call, at: tuple[Any, ...]) -> Any:
        def twice(*leaves: Any) -> Any:
            return torch.utils.checkpoint.checkpoint(
                function, *leaves, use_reentrant=reentrant
            ).sum()

        leaves = [a.clone().requires_grad_() for a in at]
        twice(*leaves).backward()
        return [torch.zeros_like(a) if a.grad is None else a.grad for a in leaves]

    return derivative(run)


def _saving(function: Call, at: tuple[Any, ...]) -> Any:
    def held(*leaves: Any) -> Any:
        with torch.autograd.graph.save_on_cpu():
            return function(*leaves)

    return backward(held, at)


def _fake(call: Call, args: tuple[Any, ...]) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return call(*map(mode.from_tensor, args))


def _nested(layout: torch.layout) -> Callable[..., Any]:
    def run(call: Call, args: tuple[Any, ...]) -> Any:
        first, *others = args
        parts = [first, first[:1]] if first.ndim == 1 else [first[0], first[1][:1]]
        return call(torch.nested.nested_tensor(parts, layout=layout), *others)

    return run


def _distributed(call: Call, args: tuple[Any, ...]) -> Any:
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    first, *others = args
    return call(DTensor.from_local(first, mesh, [Replicate()]), *others)


class Labelled(torch.Tensor):
    """A subclass of somebody's own, without rules of its own."""


def _subclass(call: Call, args: tuple[Any, ...]) -> Any:
    results = flat(call(args[0].as_subclass(Labelled), *args[1:]))
    if not isinstance(results[0], Labelled):
        raise Wrong("the result is not of the subclass")
    return tuple(r.as_subclass(torch.Tensor) for r in results)


WORLDS: dict[str, World] = {
    "eager": World(lambda call, args: call(*args)),
    "`backward()`": World(derivative(backward, scalar=True)),
    "forward-mode AD": World(derivative(forward_mode)),
    "`func.grad`": World(derivative(lambda f, at: func.grad(f, places(at))(*at), scalar=True)),
    "`func.vjp`": World(derivative(vjp)),
    "`func.jvp`": World(derivative(lambda f, at: func.jvp(f, at, at))),
    "`func.jacrev`": World(derivative(lambda f, at: func.jacrev(f, places(at))(*at))),
    "`func.jacfwd`": World(derivative(lambda f, at: func.jacfwd(f, places(at))(*at))),
    "`func.hessian`": World(hessian),
    "`func.jacrev` of `jacrev`": World(
        derivative(
            lambda f, at: func.jacrev(func.jacrev(f, places(at)), places(at))(*at), scalar=True
        )
    ),
    "`func.linearize`": World(derivative(linearize), slow=True),
    "`autograd.grad(is_grads_batched=True)`": World(derivative(batched_backward)),
    "`func.vmap`": World(lambda call, args: func.vmap(call)(*stacked(args)), "stacked"),
    "`vmap` of `vmap`": World(
        lambda call, args: func.vmap(
            lambda *outer: func.vmap(call)(*(torch.stack([a, a]) for a in outer))
        )(*stacked(args)),
        "stacked",
    ),
    "`vmap` of `grad`": World(vmap_grad, "stacked"),
    "`grad` of `vmap`": World(grad_vmap, "stacked"),
    "`func.functionalize`": World(lambda call, args: func.functionalize(call)(*args)),
    "`checkpoint`": World(_checkpoint(False)),
    "`checkpoint`, reentrant": World(_checkpoint(True)),
    "`save_on_cpu`": World(derivative(_saving, scalar=True)),
    "`no_grad`, `inference_mode`": World(_within(torch.no_grad, torch.inference_mode)),
    "`use_deterministic_algorithms`": World(_within(_deterministic)),
    "`autocast`": World(_within(lambda: torch.autocast("cpu", torch.bfloat16))),
    "`detect_anomaly`": World(
        _within(lambda: torch.autograd.set_detect_anomaly(True, check_nan=False))
    ),
    "`set_default_device`": World(_within(_default_device), "plain"),
    "`with torch.device(...)`": World(_within(lambda: torch.device("meta")), "plain"),
    "`torch.save`, `torch.load`": World(_saved),
    "a `TorchDispatchMode`": World(_within(_Dispatches)),
    "a `TorchFunctionMode`": World(_within(_Functions)),
    "meta tensors": World(lambda call, args: call(*(a.to("meta") for a in args)), "shapes"),
    "fake tensors": World(_fake, "shapes"),
    "`compile(fullgraph=True)`": World(_compiled(False), "plain", slow=True),
    "`compile(dynamic=True)`": World(_compiled(True), "plain", slow=True),
    "`compile`, to code by Inductor": World(_compiled(False, "inductor"), "plain", weekly=True),
    "`backward()` of `compile`": World(derivative(backward_of_compiled, scalar=True), weekly=True),
    "compiled autograd": World(derivative(backward_by_compiled, scalar=True), weekly=True),
    "`compile` of `hessian`": World(_compiled_hessian, "hessian", weekly=True),
    "`make_fx`, symbolic": World(_traced, "plain", slow=True),
    "`torch.export`, any number of samples": World(_exported_open, "plain", slow=True),
    "`torch.export`": World(_exported, "plain", slow=True),
    "AOTInductor": World(_packaged, "plain", weekly=True),
    "a subclass": World(_subclass, "plain"),
    "nested tensors": World(_nested(torch.strided), refuses="to_padded_tensor"),
    "jagged tensors": World(_nested(torch.jagged), refuses="to_padded_tensor"),
    "`DTensor`": World(_distributed, refuses="to_local()"),
}


def _seeded(call: Call, args: tuple[Any, ...]) -> Any:
    torch.manual_seed(SEED)
    return call(*args)


def expect(got: Any, want: Any, shapes: bool = False) -> None:
    if shapes:
        pairs = list(zip(flat(got), flat(want), strict=True))
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
            raise Wrong(f"{[(a.shape, a.dtype) for a, _ in pairs]}")
    elif not same(got, want):
        raise Wrong(f"{got} is not {want}")
