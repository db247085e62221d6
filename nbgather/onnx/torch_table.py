"""ONNX translations of ``torch.ops.nbgather``, for ``torch.onnx.export(dynamo=True)``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nbgather.containers import registry
from nbgather.onnx._build import onnx
from nbgather.onnx._nodes import take_rows
from nbgather.onnx._noise import seeded_noise, wide_source
from nbgather.onnx._ranking import rank_nodes
from nbgather.onnx.masking import mask_nodes
from nbgather.onnx.restoring import restore_nodes

__all__ = ["torch_translation_table"]

#: NumPy's name of each dtype of scores, by ONNX's number.
_SCORE_TYPES = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
}


class _Script:
    """:class:`~nbgather.onnx._nodes.Nodes` that are onnxscript's operators.

    The graphs of this package refer to values by name; ``values`` maps the names to onnxscript's
    values. Names and documents of nodes are left to torch.
    """

    def __init__(self, **values: Any) -> None:
        from onnxscript import opset18

        self._opset = opset18
        self.values = values
        self._known: dict[int, tuple[Any, np.ndarray]] = {}

    def _value(self, name: Any) -> Any:
        return self.values[name] if isinstance(name, str) else name

    def constant(self, value: np.ndarray | np.generic) -> Any:
        array = np.asarray(value, order="C")
        result = self._opset.Constant(value=onnx.numpy_helper.from_array(array))
        self._known[id(result)] = result, array
        return result

    def int64(self, value: int | Sequence[int]) -> Any:
        return self.constant(np.array(value, np.int64))

    def op(self, kind: str, inputs: Sequence[Any], output: str, doc: str, **attributes: Any) -> str:
        operator = getattr(self._opset, kind)
        self.values[output] = operator(*map(self._value, inputs), **attributes)
        return output

    def ops(
        self,
        kind: str,
        inputs: Sequence[Any],
        outputs: Sequence[str],
        doc: str,
        *,
        name: str,
        **attributes: Any,
    ) -> list[str]:
        values = [self._value(value) for value in inputs]
        if kind == "Split":
            # onnxscript does not know the number of parts: each is a Slice.
            sizes, axis = self._known[id(inputs[1])][1].tolist(), attributes["axis"]
            ends = list(itertools.accumulate(sizes, initial=0))
            results: Sequence[Any] = [
                self._opset.Slice(values[0], self.int64([a]), self.int64([b]), self.int64([axis]))
                for a, b in itertools.pairwise(ends)
            ]
        else:
            results = getattr(self._opset, kind)(*values, **attributes)
        self.values.update(zip(outputs, results, strict=True))
        return list(outputs)


def _score_type(value: Any) -> str:
    return _SCORE_TYPES[int(value.dtype)]


def _plain_mode(mode: str) -> None:
    if mode not in ("raise", "defer"):
        raise NotImplementedError(f"mode {mode!r} has no translation to ONNX: 'raise' has")


def _as_int64(g: _Script, name: str) -> str:
    return g.op("Cast", [name], f"{name}_int64", "", to=onnx.TensorProto.INT64)


def _gather(input: Any, dim: int, index: Any, mode: str = "raise", fill_value: float = 0) -> Any:
    _plain_mode(mode)
    g = _Script(input=input, index=index)
    g.op("GatherElements", ["input", _as_int64(g, "index")], "output", "", axis=dim)
    return g.values["output"]


def _take_along_axis(
    arr: Any, indices: Any, axis: int = -1, mode: str = "raise", fill_value: float = 0
) -> Any:
    _plain_mode(mode)
    g = _Script(arr=arr, indices=indices)
    positive = axis % len(arr.shape)
    wide = {}
    for name, other in (("arr", "indices"), ("indices", "arr")):
        shape = g.op("Shape", [name], f"{name}_shape", "")
        other_shape = g.op("Shape", [other], f"{name}_other", "")
        # Off the axis a size of 1 is broadcast; along it each keeps its own size.
        off_axis = g.constant(np.arange(len(arr.shape)) != positive)
        one = g.op("Equal", [shape, g.int64(1)], f"{name}_one", "")
        broadcast = g.op("And", [one, off_axis], f"{name}_broadcast", "")
        target = g.op("Where", [broadcast, other_shape, shape], f"{name}_target", "")
        wide[name] = g.op("Expand", [name, target], f"{name}_wide", "")
    index = _as_int64(g, wide["indices"])
    g.op("GatherElements", [wide["arr"], index], "output", "", axis=positive)
    return g.values["output"]


def _gather_tokens(x: Any, ids: Any, mode: str = "raise", fill_value: float = 0) -> Any:
    _plain_mode(mode)
    g = _Script(x=x, ids=ids)
    take_rows(g, "x", _as_int64(g, "ids"), "output", "nd", "")
    return g.values["output"]


def _keep_tokens(x: Any, ids_keep: Any, ids_restore: Any, padded: bool = False) -> Any:
    if padded:
        raise NotImplementedError(
            "a number of kept tokens for each sample has no translation to ONNX: one for all has"
        )
    return _gather_tokens(x, ids_keep)


def _score(*arguments: Any, **keywords: Any) -> Any:
    raise NotImplementedError(
        "a strategy has no translation to ONNX: score the tokens outside, and give them as noise"
    )


def _scatter(reduction: str) -> Callable[..., Any]:
    def scatter(input: Any, dim: int, index: Any, src: Any, told: bool = False) -> Any:
        g = _Script(input=input, index=index, src=src)
        shape = g.op("Shape", ["index"], "shape", "")
        zeros = g.int64([0] * len(index.shape))
        part = g.op("Slice", ["src", zeros, shape], "part", "")
        operands = ["input", _as_int64(g, "index"), part]
        g.op("ScatterElements", operands, "output", "", axis=dim, reduction=reduction)
        return g.values["output"]

    return scatter


def _length(g: _Script, number: Any, name: str) -> str:
    """A number, fixed or dynamic, as int64 [1]."""
    if isinstance(number, int):
        g.values[name] = g.int64([number])
        return name
    g.values[f"{name}_scalar"] = number
    wide = _as_int64(g, f"{name}_scalar")
    return g.op("Reshape", [wide, g.int64([1])], name, "")


def _token_noise(seed: int, sample_ids: Any, num_tokens: Any, epoch: Any = 0) -> Any:
    g = _Script(sample_ids=sample_ids)
    g.values["seed"] = g.int64(seed)
    g.values["epoch"] = g.int64(epoch) if isinstance(epoch, int) else epoch
    seeded_noise(g, _length(g, num_tokens, "length"), wide_source(g))
    return g.values["noise"]


def _seeded_noise(seed: Any, epoch: Any, sample_ids: Any, num_tokens: Any) -> Any:
    g = _Script(sample_ids=sample_ids, seed=seed, epoch=epoch)
    seeded_noise(g, _length(g, num_tokens, "length"), wide_source(g))
    return g.values["noise"]


def _rank_tokens(scores: Any, num_keep: Any) -> tuple[Any, ...]:
    g = _Script(noise=scores)
    grid = g.op("Shape", ["noise"], "grid", "")
    length = g.op("Gather", [grid, g.int64([1])], "length", "", axis=0)
    count = _length(g, num_keep, "count")
    rank_nodes(
        g,
        "noise",
        _score_type(scores),
        grid=grid,
        length=length,
        checked=length,
        count=count,
        ids_keep=True,
    )
    return g.values["ids_keep"], g.values["ids_restore"], g.values["mask"]


def _random_masking(x: Any, noise: Any, mask_ratio: float) -> tuple[Any, ...]:
    g = _Script(x=x, noise=noise)
    mask_nodes(
        g,
        with_x=True,
        noise_type=_score_type(noise),
        source=None,
        ratio=mask_ratio,
        gather="nd",
        ids_keep=True,
    )
    return tuple(g.values[name] for name in ("x_masked", "mask", "ids_restore", "ids_keep"))


def _restore_tokens(x_visible: Any, ids_restore: Any, mask_token: Any) -> Any:
    g = _Script(x_visible=x_visible, mask_token=mask_token)
    g.values["ranks"] = ids_restore
    g.values["ids_restore"] = g.values[_as_int64(g, "ranks")]
    restore_nodes(g, "nd")
    return g.values["x"]


def torch_translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """A table for ``torch.onnx.export(..., dynamo=True, custom_translation_table=...)``.

    With it a module that calls nbgather exports to flat graphs of ONNX's standard operators, which
    are correct at every size. Opset 18 or later. Modes other than ``"raise"`` have no translation,
    and as in ONNX a negative index counts from the end. Seeds and sample ids are torch's int64,
    with all of their bits; a runtime that narrows int64 narrows those of 2**31 and more.

    Returns
    -------
    dict
        From each of ``torch.ops.nbgather`` to a function over onnxscript's operators.

    Raises
    ------
    ModuleNotFoundError
        torch or onnxscript is not installed.

    Examples
    --------
    >>> import torch
    >>> import nbgather
    >>> from nbgather.onnx import torch_translation_table
    >>> class Masking(torch.nn.Module):
    ...     def forward(self, x, noise):
    ...         return tuple(nbgather.random_masking(x, 0.75, noise=noise))
    ...
    >>> program = torch.onnx.export(
    ...     Masking().eval(), (torch.rand(2, 16, 4), torch.rand(2, 16)), dynamo=True, verbose=False,
    ...     opset_version=18, custom_translation_table=torch_translation_table(),
    ... )
    >>> {node.domain for node in program.model_proto.graph.node}
    {''}
    """
    import onnxscript  # noqa: F401
    import torch

    registry.load(registry.MODULES["torch"])  # which defines the operators
    ops = torch.ops.nbgather
    return {
        ops.gather.default: _gather,
        ops.take_along_axis.default: _take_along_axis,
        ops.gather_tokens.default: _gather_tokens,
        ops.scatter.default: _scatter("none"),
        ops.scatter_add.default: _scatter("add"),
        ops.token_noise.default: _token_noise,
        ops.seeded_noise.default: _seeded_noise,
        ops.seeded_noise.nowait: _seeded_noise,
        ops.rank_tokens.default: _rank_tokens,
        ops.keep_tokens.default: _keep_tokens,
        ops.score.default: _score,
        ops.random_masking.default: _random_masking,
        ops.restore_tokens.default: _restore_tokens,
        ops.gather.nowait: _gather,
        ops.take_along_axis.nowait: _take_along_axis,
        ops.gather_tokens.nowait: _gather_tokens,
        ops.scatter.nowait: _scatter("none"),
        ops.scatter_add.nowait: _scatter("add"),
        ops.restore_tokens.nowait: _restore_tokens,
    }
