"""Join a masking model and the models before and after it into one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbgather.onnx._build import OLDEST_OPSET, ModelProto, onnx
from nbgather.onnx._noise import OLDEST_SEEDED_OPSET

__all__ = ["attach"]

#: A width is inferred with sizes that no model has by chance.
_UNLIKELY_WIDTHS = (7919, 7907)


def attach(
    masking: ModelProto | str | os.PathLike[str],
    encoder: ModelProto | str | os.PathLike[str],
    *,
    embed: ModelProto | str | os.PathLike[str] | None = None,
    tokens: str | None = None,
    embedded: str | None = None,
) -> ModelProto:
    """Join a masking to an encoder of visible tokens, and to what makes the tokens.

    ``images → embed → x → masking → x_masked → encoder``, in one model. The masking is written at
    the opset of the others.

    Parameters
    ----------
    masking : onnx.ModelProto or path
        Of :func:`masking_model`, with x.
    encoder : onnx.ModelProto or path
        A model with an input of visible tokens `[N, K, D]`, K dynamic. Where its weights fit
        one D only, the joined model has it as a fixed size.
    embed : onnx.ModelProto or path, optional
        A model with an output of tokens `[N, L, D]`, e.g. a patch and position embedding. Without
        one, x stays an input.
    tokens : str, optional
        The encoder's input that takes the tokens; by default its only one.
    embedded : str, optional
        The output of ``embed`` that gives the tokens; by default its only one.

    Returns
    -------
    onnx.ModelProto
        Inputs: those of ``embed`` (or x), those of the masking (noise, or seed, sample_ids and
        epoch), and the other ones of the encoder. Outputs: those of the encoder, then those of
        the masking. Where two of the models have a name in common, ``encoder/`` or ``embed/`` is
        put before it in one of them.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    TypeError, ValueError
        A masking that is not of :func:`masking_model`; a model that is no ONNX model, lacks the
        input or output, has another dtype, rank or width, or an opset too old for the masking.

    Examples
    --------
    >>> import onnx.parser
    >>> from nbgather.onnx import attach, masking_model
    >>> encoder = onnx.parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     twice (float[N, K, 2] visible) => (float[N, K, 2] latent)
    ...     { latent = Add(visible, visible) }''')
    >>> joined = attach(masking_model(0.5), encoder)
    >>> [port.name for port in joined.graph.output]
    ['latent', 'x_masked', 'mask', 'ids_restore']
    """
    masking = _loaded(masking, "masking")
    names = {port.name for port in (*masking.graph.input, *masking.graph.output)}
    if masking.producer_name != "nbgather" or not {"x", "x_masked"} <= names:
        raise ValueError("masking is not a model of masking_model(...) with x")
    after = _loaded(encoder, "encoder")
    before = None if embed is None else _loaded(embed, "embed")
    target = _one(after.graph.input, tokens, "encoder", "input", "tokens", _constants(after))
    _fit(_port(masking.graph.output, "x_masked"), target, "encoder", "input")
    width = _width(after, target)
    if width is not None and before is None:
        for port in (_port(masking.graph.input, "x"), _port(masking.graph.output, "x_masked")):
            port.type.tensor_type.shape.dim[2].dim_value = width
    if before is not None:
        source = _one(before.graph.output, embedded, "embed", "output", "embedded", set())
        _fit(_port(masking.graph.input, "x"), source, "embed", "output")

    middle = ModelProto()
    middle.CopyFrom(masking)
    defaults = _without_defaults(middle)
    _align(middle, [m for m in (before, after) if m is not None])
    middle = onnx.compose.add_prefix(middle, "masking/", rename_inputs=False, rename_outputs=False)
    taken = {port.name for port in (*middle.graph.input, *middle.graph.output)}
    after, into = _renamed(after, "encoder/", taken, target.name)
    masked = [port.name for port in middle.graph.output]
    encoded = [port.name for port in after.graph.output]
    joined = _merged(middle, after, [("x_masked", into)], [*encoded, *masked])
    if before is not None:
        taken = {port.name for port in (*joined.graph.input, *joined.graph.output)}
        before, out = _renamed(before, "embed/", taken, source.name)
        joined = _merged(before, joined, [(out, "x")], [*encoded, *masked])
    joined.graph.initializer.extend(defaults)
    joined.producer_name, joined.producer_version = "nbgather.attach", masking.producer_version
    for prop in masking.metadata_props:
        if prop.key not in {present.key for present in joined.metadata_props}:
            joined.metadata_props.add(key=prop.key, value=prop.value)
    _one_import(joined, "the joined model")
    _check(joined, "the joined model")
    return joined


def _check(model: ModelProto, what: str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # of the checker or of shape inference, which share no class
        raise ValueError(f"{what} is not valid: {' '.join(str(error).split())}") from error


def _one_import(model: ModelProto, what: str) -> None:
    """Reduce the imports to one for each domain; ONNX's own domain has two names."""
    versions: dict[str, int] = {}
    for item in model.opset_import:
        domain = "" if item.domain == "ai.onnx" else item.domain
        if versions.setdefault(domain, item.version) != item.version:
            raise ValueError(
                f"{what} imports opsets {versions[domain]} and {item.version} of one domain"
                f" ({domain or 'ai.onnx'}): export it with one"
            )
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*pair) for pair in versions.items())


def _width(encoder: ModelProto, port: Any) -> int | None:
    """The only D that the encoder accepts, by its input's shape or its weights; None for any.

    A width is accepted if shapes can be inferred with it.
    """
    shape = port.type.tensor_type.shape
    if not port.type.tensor_type.HasField("shape"):
        return None
    if shape.dim[2].HasField("dim_value"):
        return int(shape.dim[2].dim_value)
    if any(_infers(encoder, port.name, size) for size in _UNLIKELY_WIDTHS):
        return None
    sizes = {int(d) for tensor in encoder.graph.initializer for d in tensor.dims if d > 1}
    accepted = [size for size in sorted(sizes) if _infers(encoder, port.name, size)]
    return accepted[0] if len(accepted) == 1 else None


def _infers(model: ModelProto, name: str, width: int) -> bool:
    """Whether shapes can be inferred where the input ``name`` has this width."""
    trial = ModelProto()
    trial.CopyFrom(model)
    _port(trial.graph.input, name).type.tensor_type.shape.dim[2].dim_value = width
    del trial.graph.value_info[:]
    try:
        onnx.shape_inference.infer_shapes(trial, check_type=True, strict_mode=True, data_prop=True)
    except Exception:
        return False
    return True


def _loaded(model: Any, what: str) -> ModelProto:
    if isinstance(model, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(model)
        return _valid(copy, what)
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"{what} is of type {type(model).__name__}: a path or onnx.ModelProto is needed"
        )
    path = Path(model)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        loaded = onnx.load(path)
    except Exception as error:
        raise ValueError(f"{path} is not an ONNX model: {' '.join(str(error).split())}") from error
    return _valid(loaded, what)


def _valid(model: ModelProto, what: str) -> ModelProto:
    _one_import(model, what)
    _check(model, what)
    return model


def _constants(model: ModelProto) -> set[str]:
    """Inputs that are initializers too, as old exporters list them."""
    return {tensor.name for tensor in model.graph.initializer}


def _without_defaults(model: ModelProto) -> list[Any]:
    """Take the defaults of inputs out of a model, which prefixing would give other names."""
    inputs = {port.name for port in model.graph.input}
    defaults = [tensor for tensor in model.graph.initializer if tensor.name in inputs]
    others = [tensor for tensor in model.graph.initializer if tensor.name not in inputs]
    del model.graph.initializer[:]
    model.graph.initializer.extend(others)
    return defaults


def _port(ports: Iterable[Any], name: str) -> Any:
    return next(port for port in ports if port.name == name)


def _one(
    ports: Iterable[Any], name: str | None, what: str, side: str, option: str, without: set[str]
) -> Any:
    """The port called ``name``, or the only one."""
    candidates = [port for port in ports if port.name not in without]
    names = ", ".join(port.name for port in candidates) or "none"
    if name is None:
        if len(candidates) != 1:
            raise ValueError(
                f"{what} has {len(candidates)} {side}s ({names}): {option}= must name one"
            )
        return candidates[0]
    for port in candidates:
        if port.name == name:
            return port
    raise ValueError(f"{what} has no {side} {name!r}: its {side}s are {names}")


def _fit(masking_port: Any, port: Any, what: str, side: str) -> None:
    """Refuse a port of another model that cannot be joined to this one of the masking."""
    masking_type, tensor = masking_port.type.tensor_type, port.type.tensor_type
    if masking_type.elem_type != tensor.elem_type:
        masking_name, name = map(_type_name, (masking_type, tensor))
        raise ValueError(
            f"{what}'s {side} {port.name!r} is {name} and the masking's"
            f" {masking_port.name!r} is {masking_name}: masking_model(dtype=...) must be the same"
        )
    if tensor.HasField("shape") and len(tensor.shape.dim) != 3:
        raise ValueError(
            f"{what}'s {side} {port.name!r} has {len(tensor.shape.dim)} dimensions: 3 are needed"
        )
    if what == "encoder" and tensor.HasField("shape") and tensor.shape.dim[1].HasField("dim_value"):
        size = tensor.shape.dim[1].dim_value
        raise ValueError(
            f"encoder's input {port.name!r} has a fixed number of tokens, {size}: export it with"
            " a dynamic one"
        )


def _type_name(tensor: Any) -> str:
    return str(onnx.TensorProto.DataType.Name(tensor.elem_type))


def _opset(model: ModelProto) -> int:
    return next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 1)


def _align(masking: ModelProto, others: list[ModelProto]) -> None:
    """Give all models one opset and one IR version: others cannot be merged.

    The nodes of a masking are valid in every opset from the oldest on.
    """
    opsets = {_opset(model) for model in others}
    if len(opsets) > 1:
        raise ValueError(
            f"encoder and embed have opsets {', '.join(map(str, sorted(opsets)))}: export both at"
            " the same"
        )
    (opset,) = opsets
    bitwise = any(node.op_type.startswith("Bitwise") for node in masking.graph.node)
    needed = OLDEST_SEEDED_OPSET if bitwise else OLDEST_OPSET
    if opset < needed:
        raise ValueError(f"the encoder has opset {opset}: this masking needs {needed} or later")
    masking.opset_import[0].version = opset
    version = max(model.ir_version for model in (masking, *others))
    for model in (masking, *others):
        model.ir_version = version


def _renamed(model: ModelProto, prefix: str, taken: set[str], port: str) -> tuple[ModelProto, str]:
    """A copy with ``prefix`` before its names, and the new name of one of its ports.

    Inputs are renamed only where one of their names is taken, and outputs likewise.
    """
    inputs = any(p.name in taken for p in model.graph.input)
    outputs = any(p.name in taken for p in model.graph.output)
    copy = onnx.compose.add_prefix(model, prefix, rename_inputs=inputs, rename_outputs=outputs)
    is_input = any(p.name == port for p in model.graph.input)
    renamed = inputs if is_input else outputs
    return copy, f"{prefix}{port}" if renamed else port


def _merged(
    first: ModelProto, second: ModelProto, io_map: list[tuple[str, str]], outputs: list[str]
) -> ModelProto:
    for model in (first, second):
        # The joined model gets its own; keys that both have could not be merged.
        del model.metadata_props[:]
        model.doc_string = ""
    model = onnx.compose.merge_models(first, second, io_map=io_map, outputs=outputs)
    ordered = sorted(model.graph.output, key=lambda port: outputs.index(port.name))
    del model.graph.output[:]
    model.graph.output.extend(ordered)
    return model
