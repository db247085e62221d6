"""Run an ONNX model by name: inputs checked first, outputs as a dict."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nbgather.onnx._build import ModelProto, to_bytes
from nbgather.onnx.loading import one_line, source
from nbgather.operations import checks, keep

try:
    import onnxruntime
except ImportError:
    raise ImportError('nbgather.onnx needs onnxruntime: pip install "nbgather[onnx]"') from None

__all__ = ["Port", "Session", "run"]

#: NumPy's name of each type that onnxruntime calls otherwise.
_NUMPY_NAMES = {"float": "float32", "double": "float64"}

#: Before this version TopK of an empty batch ends the process (SIGFPE). Models of this package
#: avoid it; empty inputs of other models are refused.
_EMPTY_SAFE_VERSION = (1, 31, 1)

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


class Port(NamedTuple):
    """An input or output of a model.

    Attributes
    ----------
    name : str
    dtype : str
        NumPy's name, or onnxruntime's type of what is not a tensor.
    shape : tuple
        A number for a fixed size, a name for a dynamic one, None for one without a name.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Session:
    """A model ready to run.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        The model.
    providers : sequence of str, optional
        Execution providers, best first. By default CUDA where it is available, and the CPU.
    threads : int, optional
        Threads within an operator; onnxruntime's choice by default.

    Attributes
    ----------
    inputs, outputs : tuple of Port
    optional : tuple of Port
        Inputs that have a default, and may be left out.
    metadata : dict of str to str
        The model's ``metadata_props``.
    label : str
        "onnxruntime" and its version.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    TypeError
        ``model`` is no path, bytes or ModelProto; ``threads`` is not a whole number.
    ValueError
        Not an ONNX model, or one that this onnxruntime cannot load; an unknown provider;
        ``threads`` below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import Session, masking_model
    >>> session = Session(masking_model(0.5, with_x=False), threads=1)
    >>> session.inputs
    (Port(name='noise', dtype='float32', shape=('N', 'L')),)
    >>> session.run(noise=np.array([[0.2, 0.1]], np.float32))["mask"].tolist()
    [[1.0, 0.0]]
    """

    inputs: tuple[Port, ...]
    optional: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]
    label = f"onnxruntime {onnxruntime.__version__}"

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | ModelProto,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        data, self._name = source(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = _threads(threads)
        chosen = _providers(providers)
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=chosen)
        except Exception as error:
            raise ValueError(
                f"{self._name} is not a model that onnxruntime {onnxruntime.__version__} can load:"
                f" {one_line(error)}"
            ) from error
        self.inputs = tuple(_port(arg) for arg in self._session.get_inputs())
        self.optional = _with_defaults(self._session)
        self.outputs = tuple(_port(arg) for arg in self._session.get_outputs())
        meta = self._session.get_modelmeta()
        self.metadata = dict(meta.custom_metadata_map)
        self._is_nbgather = meta.producer_name == "nbgather"
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = 4  # errors are raised; they need not be printed

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, best first."""
        return tuple(self._session.get_providers())

    def run(
        self, inputs: Mapping[str, Any] | None = None, /, **named: Any
    ) -> dict[str, np.ndarray]:
        """Run the model.

        Parameters
        ----------
        inputs : mapping of str to array_like, optional
            Arrays by name. No dtype is converted, but a Python int or float takes the input's.
        **named : array_like
            More of them.

        Returns
        -------
        dict of str to numpy.ndarray
            Every output by name.

        Raises
        ------
        TypeError
            An input is missing, unknown, given twice, or of another dtype.
        ValueError
            An input has another number of dimensions or size, or a size that is not the same in
            two inputs that share it; a number does not fit.
        RuntimeError
            The model itself failed, e.g. on an index out of bounds.
        """
        feeds = self._feeds(inputs, named)
        self._check_sizes(feeds)
        if not self._is_nbgather and _version() < _EMPTY_SAFE_VERSION:
            self._refuse_empty(feeds)
        return self._run(feeds)

    def _feeds(self, inputs: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
        if inputs is not None and not isinstance(inputs, Mapping):
            raise TypeError(
                f"inputs is of type {type(inputs).__name__}: a mapping of names to arrays is needed"
            )
        values = dict(inputs or {})
        ports = (*self.inputs, *self.optional)
        names = [port.name for port in ports]
        for name in named:
            if name in values:
                raise TypeError(f"input {name!r} was given twice")
        values.update(named)
        for name in values:
            if name not in names:
                raise TypeError(
                    f"{self._name} has no input {name!r}: its inputs are {', '.join(names)}"
                )
        needed = [port.name for port in self.inputs]
        missing = [name for name in needed if name not in values]
        if missing:
            raise TypeError(
                f"{self._name} needs {', '.join(needed)}: {', '.join(missing)} not given"
            )
        given = (port for port in ports if port.name in values)
        return {port.name: self._checked(port, values[port.name]) for port in given}

    def _checked(self, port: Port, value: Any) -> Any:
        if "(" in port.dtype:
            return value  # a sequence, map or optional, which onnxruntime checks
        array = _array(port, value)
        if array.dtype.name != port.dtype:
            raise TypeError(f"input {port.name!r} is {array.dtype.name}: it must be {port.dtype}")
        # onnxruntime gives () for a scalar and for an unknown number of dimensions, and takes [1]
        # for a scalar.
        is_number = not port.shape and array.shape == (1,)
        if array.ndim != len(port.shape) and (port.shape or self._is_nbgather) and not is_number:
            raise ValueError(
                f"input {port.name!r} has shape {array.shape}: it must be {_shape_text(port)}"
            )
        if self._is_nbgather and port.name == "mask_ratio":
            keep.ratio(array)  # the graph clips instead of refusing it
        return array

    def _check_sizes(self, feeds: Mapping[str, Any]) -> None:
        """Refuse another size than a fixed one, and two sizes for one name."""
        seen: dict[str, tuple[int, str]] = {}
        for port in (*self.inputs, *self.optional):
            shape = getattr(feeds.get(port.name), "shape", ())
            for expected, size in zip(port.shape, shape, strict=False):
                if isinstance(expected, int) and size != expected:
                    raise ValueError(
                        f"input {port.name!r} has shape {shape}: it must be {_shape_text(port)}"
                    )
                if isinstance(expected, str):
                    known, first = seen.setdefault(expected, (size, port.name))
                    if size != known:
                        raise ValueError(
                            f"input {port.name!r} has shape {shape} with {expected} = {size}, but"
                            f" {first!r} has {expected} = {known}: both must be the same"
                        )

    def _refuse_empty(self, feeds: Mapping[str, Any]) -> None:
        for name, value in feeds.items():
            shape = getattr(value, "shape", ())
            if 0 in shape:
                raise ValueError(
                    f"input {name!r} has shape {shape}, which is empty: onnxruntime"
                    f" {onnxruntime.__version__} can end the process on that; 1.31.1 and later"
                    " cannot, and models of nbgather are safe on all"
                )

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        names = [port.name for port in self.outputs]
        try:
            if "bfloat16" in (port.dtype for port in (*self.inputs, *self.outputs)):
                return dict(zip(names, self._run_bound(feeds), strict=True))
            return dict(zip(names, self._session.run(names, feeds, self._options), strict=True))
        except Exception as error:
            raise RuntimeError(f"{self._name} failed: {one_line(error)}") from error

    def _run_bound(self, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """Run through IO binding, which supports types that NumPy does not have."""
        binding = self._session.io_binding()
        alive = []  # onnxruntime reads their memory until the run is over
        for port in (*self.inputs, *self.optional):
            if port.name not in feeds:
                continue
            value = feeds[port.name]
            if port.dtype == "bfloat16":
                bits = value.view(np.uint16)
                ort_value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
                alive.append(bits)
            else:
                ort_value = onnxruntime.OrtValue.ortvalue_from_numpy(value)
            binding.bind_ortvalue_input(port.name, ort_value)
            alive.append(ort_value)
        for port in self.outputs:
            binding.bind_output(port.name, "cpu")
        self._session.run_with_iobinding(binding, self._options)
        return [
            _bfloat16_array(value) if port.dtype == "bfloat16" else value.numpy()
            for port, value in zip(self.outputs, binding.get_outputs(), strict=True)
        ]


def run(
    model: Session | str | os.PathLike[str] | bytes | ModelProto,
    inputs: Mapping[str, Any] | None = None,
    /,
    **named: Any,
) -> dict[str, np.ndarray]:
    """Run a model once.

    The sessions of the last few models of this package are reused. For a file that is run often,
    make a :class:`Session`.

    Parameters
    ----------
    model : Session, path, bytes or onnx.ModelProto
        The model.
    inputs : mapping of str to array_like, optional
        Arrays by name. No dtype is converted, but a Python int or float takes the input's.
    **named : array_like
        More of them.

    Returns
    -------
    dict of str to numpy.ndarray
        Every output by name.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError, RuntimeError
        As :class:`Session` and :meth:`Session.run`.

    Examples
    --------
    >>> import numpy as np
    >>> from nbgather.onnx import masking_model, run
    >>> model = masking_model(0.5, noise="seed", with_x=False, ids_keep=True)
    >>> run(model, seed=1, sample_ids=np.arange(2), num_tokens=4, epoch=0)["ids_keep"].tolist()
    [[2, 3], [3, 1]]
    """
    if isinstance(model, Session):
        session = model
    elif isinstance(model, ModelProto) and model.producer_name == "nbgather":
        session = _cached_session(to_bytes(model), os.getpid())
    else:
        session = Session(model)
    return session.run(inputs, **named)


@lru_cache(maxsize=8)
def _cached_session(data: bytes, pid: int) -> Session:
    """A session of the process ``pid``: after a fork the threads of a session are lost."""
    return Session(data)


def _threads(value: Any) -> int:
    number = checks.integer(value, "threads")
    if number < 1:
        raise ValueError(f"threads is {number}: it must be at least 1")
    return number


def _providers(chosen: Sequence[str] | None) -> list[str]:
    available = onnxruntime.get_available_providers()
    if chosen is None:
        return [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    for name in names:
        if name not in available:
            raise ValueError(f"providers has {name!r}: it must be one of {', '.join(available)}")
    return names


def _port(arg: Any) -> Port:
    kind = re.fullmatch(r"tensor\((\w+)\)", arg.type)
    dtype = _NUMPY_NAMES.get(kind[1], kind[1]) if kind else arg.type
    return Port(arg.name, dtype, tuple(arg.shape))


def _with_defaults(session: Any) -> tuple[Port, ...]:
    """The inputs that have an initializer, which onnxruntime lists apart."""
    return tuple(_port(arg) for arg in session.get_overridable_initializers())


def _shape_text(port: Port) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in port.shape) + "]"


def _array(port: Port, value: Any) -> np.ndarray:
    """``value`` as a contiguous array of this machine's byte order."""
    if type(value) is int and port.dtype[:3] in ("int", "uin"):
        limits = np.iinfo(port.dtype)
        if not limits.min <= value <= limits.max:
            raise ValueError(
                f"input {port.name!r} is {value}: it must be between {limits.min} and {limits.max}"
            )
        return np.array(value, port.dtype)
    if type(value) in (int, float) and port.dtype in ("float32", "float64"):
        return np.array(value, port.dtype)
    try:
        array = np.asarray(value, order="C")
    except Exception as error:  # __array__ of an unknown class can raise anything
        raise TypeError(
            f"input {port.name!r} of type {type(value).__name__} makes no array: {one_line(error)}"
        ) from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _bfloat16_array(value: Any) -> np.ndarray:
    from ml_dtypes import bfloat16

    array = np.empty(value.shape(), np.uint16)
    ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return array.view(bfloat16)


@lru_cache(maxsize=1)
def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", onnxruntime.__version__)[:3])
