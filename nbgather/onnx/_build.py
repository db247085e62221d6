"""A small graph builder: named and documented nodes, shared constants, checked models.

Every field that goes into a model is set here, so that the same call gives the same bytes with
every release of the onnx library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nbgather import __version__
from nbgather.operations import checks

try:
    import onnx
    from onnx import ModelProto, TensorProto, helper
except ImportError:
    raise ImportError('nbgather.onnx needs onnx: pip install "nbgather[onnx]"') from None

__all__ = [
    "INDEX_TYPES",
    "NOISE_TYPES",
    "TENSOR_TYPES",
    "GraphBuilder",
    "ModelProto",
    "TensorProto",
    "check_versions",
    "dtype_name",
    "onnx",
    "to_bytes",
]

#: The ONNX type of each dtype that onnxruntime gathers.
TENSOR_TYPES: dict[str, int] = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
}

#: The dtypes of scores.
NOISE_TYPES = ("float16", "bfloat16", "float32", "float64")

#: The dtypes of indices.
INDEX_TYPES = ("int64", "int32")

#: The oldest versions that the graphs of this package are valid in.
OLDEST_OPSET = 13
OLDEST_IR = 7


def dtype_name(dtype: Any, what: str, allowed: Iterable[str] = tuple(TENSOR_TYPES)) -> str:
    """The NumPy name of ``dtype``, which must be one of ``allowed``.

    Parameters
    ----------
    dtype : str, type or numpy.dtype
        Anything that names a dtype in NumPy or ml_dtypes.
    what : str
        The argument's name, for the message.
    allowed : iterable of str
        NumPy names.

    Raises
    ------
    TypeError
        Not the name of a dtype, or of one that is not allowed.

    Examples
    --------
    >>> dtype_name("f4", "dtype")
    'float32'
    """
    choices = tuple(allowed)
    name = dtype if isinstance(dtype, str) else None
    if name not in choices:
        try:
            name = None if dtype is None else np.dtype(dtype).name
        except TypeError:
            name = None
    if name is None or name not in choices:
        shown = dtype if isinstance(dtype, str) else name or repr(dtype)
        raise TypeError(f"{what} is {shown}: it must be one of {', '.join(choices)}")
    return name


def check_versions(opset: Any, ir_version: Any, oldest_opset: int = OLDEST_OPSET) -> None:
    """Refuse an opset or IR version that the installed onnx cannot check.

    Raises
    ------
    TypeError
        Not a whole number.
    ValueError
        Out of range.
    """
    newest = (onnx.defs.onnx_opset_version(), int(onnx.IR_VERSION))
    for what, value, low, high in (
        ("opset", opset, oldest_opset, newest[0]),
        ("ir_version", ir_version, OLDEST_IR, newest[1]),
    ):
        number = checks.integer(value, what)
        if not low <= number <= high:
            raise ValueError(
                f"{what} is {number}: it must be between {low} and {high} (onnx {onnx.__version__})"
            )


class GraphBuilder:
    """Collects inputs, constants, nodes and outputs of a graph, and checks the model they make.

    Parameters
    ----------
    name, doc : str
        Of the graph.
    opset, ir_version : int
        Both are written into the model as they are.

    Examples
    --------
    >>> g = GraphBuilder("double", "Twice x.", opset=17, ir_version=8)
    >>> x = g.input("x", "float32", ["N"], "Numbers.")
    >>> two = g.constant(np.float32(2))
    >>> y = g.op("Mul", [x, two], "y", "Twice x.")
    >>> g.output(y, "float32", ["N"], "Twice x.")
    >>> [node.name for node in g.finish({}).graph.node]
    ['y']
    """

    def __init__(self, name: str, doc: str, *, opset: int, ir_version: int) -> None:
        self.name, self.doc = name, doc
        self.opset, self.ir_version = opset, ir_version
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._defaults: list[TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}

    def input(
        self,
        name: str,
        dtype: str,
        shape: Sequence[str | int],
        doc: str,
        default: np.ndarray | None = None,
    ) -> str:
        """Declare an input, which may be left out if it has a default; its name."""
        self._inputs.append(_port(name, dtype, shape, doc))
        if default is not None:
            self._defaults.append(_tensor(name, default))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[str | int], doc: str) -> None:
        """Declare a value that exists as an output."""
        self._outputs.append(_port(name, dtype, shape, doc))

    def constant(self, value: np.ndarray | np.generic) -> str:
        """The name of an initializer that holds ``value``; equal values share one."""
        array = np.asarray(value, order="C")
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"const_{len(self._constants)}_{array.dtype.name}"
            if array.size == 1:
                name += f"_{array.item()}"
            self._constants[key] = _tensor(name, array)
        return self._constants[key].name

    def int64(self, value: int | Sequence[int]) -> str:
        """The name of an int64 constant: 0-d for a number, 1-d for a list."""
        return self.constant(np.array(value, np.int64))

    def op(self, kind: str, inputs: Sequence[str], output: str, doc: str, **attributes: Any) -> str:
        """Add a node with one output, named after it; the output's name."""
        return self.ops(kind, inputs, [output], doc, name=output, **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        doc: str,
        *,
        name: str,
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several outputs; their names."""
        names = list(outputs)
        self._nodes.append(
            helper.make_node(kind, list(inputs), names, name=name, doc_string=doc, **attributes)
        )
        return names

    def finish(self, metadata: Mapping[str, str]) -> ModelProto:
        """The model, checked in full and with every shape inferred strictly.

        Parameters
        ----------
        metadata : mapping of str to str
            Goes into ``metadata_props``, next to the version, the licence and the source.

        Raises
        ------
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError
            The graph is not valid: an error of this package.
        """
        graph = onnx.GraphProto()
        graph.name, graph.doc_string = self.name, self.doc
        graph.input.extend(self._inputs)
        graph.initializer.extend([*self._defaults, *self._constants.values()])
        graph.node.extend(self._nodes)
        graph.output.extend(self._outputs)
        model = ModelProto()
        model.ir_version = self.ir_version
        model.producer_name, model.producer_version = "nbgather", __version__
        model.doc_string = self.doc
        model.opset_import.add(domain="", version=self.opset)
        model.graph.CopyFrom(graph)
        for key, value in {"license": "Apache-2.0", **metadata}.items():
            model.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        return model


def to_bytes(model: ModelProto) -> bytes:
    """The model's bytes: the same for the same model, always."""
    return model.SerializeToString(deterministic=True)


def _tensor(name: str, array: np.ndarray) -> TensorProto:
    tensor = TensorProto()
    tensor.name = name
    tensor.data_type = TENSOR_TYPES[array.dtype.name]
    tensor.dims.extend(array.shape)
    tensor.raw_data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return tensor


def _port(name: str, dtype: str, shape: Sequence[str | int], doc: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TENSOR_TYPES[dtype], list(shape), doc_string=doc)
