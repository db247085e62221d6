"""Verification: right models pass, wrong ones are told, torch's own export among them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
import reference_results
import torch

import nbgather
from nbgather.apps import cli
from nbgather.onnx import (
    CATALOG,
    Session,
    gather_model,
    gather_reduce_model,
    masking_model,
    restore_model,
    runner,
    segment_reduce_model,
    verify,
)

ROOT = Path(__file__).resolve().parents[1]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nbgather", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def cached_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    reference_results.cache(monkeypatch)


MODELS = {entry.file: entry.build for entry in CATALOG} | {
    "ratio as input": lambda: masking_model(ratio_input=True),
    "bfloat16": lambda: masking_model(0.6, dtype="bfloat16", noise_dtype="bfloat16"),
    "bool": lambda: masking_model(0.6, dtype="bool", noise_dtype="float64"),
    "seeded mask": lambda: masking_model(0.5, noise="seed", with_x=False, ids_keep=True),
    "restore nd": lambda: restore_model(gather="nd", dtype="int16"),
    "gather 5d": lambda: gather_model(-2, 5, dtype="uint8", index_dtype="int32"),
    "segments by ids": lambda: segment_reduce_model("mean", by="ids"),
    "segments by counts": lambda: segment_reduce_model("prod", 3, by="counts", index_dtype="int32"),
    "bags": lambda: gather_reduce_model("amax", dtype="int8"),
    "bags by offsets": lambda: gather_reduce_model("sum", 1, by="offsets", dtype="float64"),
}


@pytest.mark.parametrize("name", MODELS)
def test_ours_are_right(name: str) -> None:
    verification = verify(MODELS[name]())
    assert verification.same, verification.difference
    assert verification.cases >= (88 if "mask" in name and "masking" not in name else 300)


def edited(model: onnx.ModelProto, change) -> onnx.ModelProto:
    change(model.graph)
    return model


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(n for n in graph.node if n.name == name)


def _unsorted(graph: onnx.GraphProto) -> None:
    for n in graph.node:
        if n.op_type == "TopK":
            next(a for a in n.attribute if a.name == "largest").i = 1


def _polarity(graph: onnx.GraphProto) -> None:
    node(graph, "removed").op_type = "Less"


def _long_mask(graph: onnx.GraphProto) -> None:
    next(a for a in node(graph, "mask").attribute if a.name == "to").i = onnx.TensorProto.INT64
    port = next(p for p in graph.output if p.name == "mask")
    port.type.tensor_type.elem_type = onnx.TensorProto.INT64


WRONG = {
    "order": (_unsorted, "should be"),
    "polarity": (_polarity, "mask at (0, 0) is"),
    "dtype": (_long_mask, "mask is int64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_models_are_told(name: str) -> None:
    change, text = WRONG[name]
    verification = verify(edited(masking_model(0.5), change))
    assert not verification.same
    assert text in verification.difference
    assert "with x [" in verification.difference


def test_another_ratio_or_dim_is_told() -> None:
    verification = verify(masking_model(0.75), mask_ratio=0.5)
    assert (
        "x_masked is float32 [1, 0, 1], it should be float32 [1, 1, 1]" in verification.difference
    )
    verification = verify(gather_model(1), dim=2)
    assert not verification.same


class Recipe(torch.nn.Module):
    """The paper's random_masking on given noise, as published."""

    def forward(self, x: torch.Tensor, noise: torch.Tensor):
        n, length, width = x.shape
        keep = int(length * (1 - 0.75))
        ids_shuffle = torch.argsort(noise, dim=1)
        ids_restore = torch.argsort(ids_shuffle, dim=1)
        ids_keep = ids_shuffle[:, :keep]
        x_masked = torch.gather(x, 1, ids_keep.unsqueeze(-1).expand(-1, -1, width))
        mask = torch.ones([n, length])
        mask[:, :keep] = 0
        return x_masked, torch.gather(mask, 1, ids_restore), ids_restore


@pytest.mark.parametrize("dynamo", [False, True])
def test_torchs_own_dynamic_export_keeps_the_wrong_number_and_ours_does_not(
    dynamo: bool, tmp_path: Path
) -> None:
    x, noise = torch.rand(2, 16, 4), torch.rand(2, 16)
    path = tmp_path / "torch.onnx"
    n, length, width = (torch.export.Dim(name, min=2) for name in ("N", "L", "D"))
    dynamic = (
        {"dynamic_shapes": ({0: n, 1: length, 2: width}, {0: n, 1: length}), "verbose": False}
        if dynamo
        else {"dynamic_axes": {"x": {0: "N", 1: "L", 2: "D"}, "noise": {0: "N", 1: "L"}}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Recipe(), (x, noise), path, dynamo=dynamo, opset_version=18 if dynamo else 17,
            input_names=["x", "noise"], output_names=["x_masked", "mask", "ids_restore"],
            **dynamic,
        )  # fmt: skip
    theirs, ours = Session(path), Session(masking_model(0.75))
    feeds = {"x": x.numpy(), "noise": noise.numpy()}
    assert np.array_equal(theirs.run(feeds)["x_masked"], ours.run(feeds)["x_masked"])
    longer = {"x": np.zeros((2, 40, 4), np.float32), "noise": np.zeros((2, 40), np.float32)}
    assert ours.run(longer)["x_masked"].shape == (2, 10, 4)
    assert theirs.run(longer)["x_masked"].shape == (2, 4, 4)  # the 4 of the example's 16
    verification = verify(theirs)
    assert not verification.same
    assert "x_masked is" in verification.difference
    assert verify(ours).same


def test_their_names_and_fixed_sizes() -> None:
    theirs = masking_model(0.5)
    for ports in (theirs.graph.input, theirs.graph.output):
        for port in ports:
            port.name = f"my_{port.name}"
    for n in theirs.graph.node:
        n.input[:] = [f"my_{i}" if i in ("x", "noise") else i for i in n.input]
        n.output[:] = [
            f"my_{o}" if o in ("x_masked", "mask", "ids_restore") else o for o in n.output
        ]
        n.input[:] = [f"my_{i}" if i == "ids_restore" else i for i in n.input]
    names = {k: f"my_{k}" for k in ("x", "noise", "x_masked", "mask", "ids_restore")}
    assert verify(theirs, names=names).cases == 352
    for port in theirs.graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = 2
        port.type.tensor_type.shape.dim[1].dim_value = 16
    assert verify(theirs, names=names).cases == 4
    with pytest.raises(ValueError, match="the model has nothing so called"):
        verify(theirs, names={"x": "tokens"})


def test_what_cannot_be_verified() -> None:
    other = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> f (float[N] a) => (float[N] b) { b = Abs(a) }'
    )
    with pytest.raises(ValueError, match="the model's inputs are a: noise, or seed"):
        verify(other)
    no_dim = gather_model(0)
    del no_dim.metadata_props[:]
    with pytest.raises(ValueError, match="does not tell its dim: give dim="):
        verify(no_dim)
    assert verify(no_dim, dim=0).same
    no_reduction = segment_reduce_model("sum")
    del no_reduction.metadata_props[:]
    with pytest.raises(ValueError, match="does not tell its reduction: give reduce="):
        verify(no_reduction)
    with pytest.raises(ValueError, match="reduce is 'max': it must be one of"):
        verify(no_reduction, reduce="max")
    assert verify(no_reduction, reduce="sum").same


@pytest.mark.parametrize(
    ("by", "name", "sizes"),
    [
        ("offsets", "x", [9, None]), ("offsets", "offsets", [4]), ("offsets", "ids", [7]),
        ("counts", "counts", [1]), (None, "ids", [3, None]), (None, "ids", [None, 2]),
        (None, "x", [1, 5]),
    ],
)  # fmt: skip
def test_fixed_sizes_of_bags_are_kept(by: Any, name: str, sizes: list[int | None]) -> None:
    model = gather_reduce_model("sum", by=by)
    port = next(p for p in model.graph.input if p.name == name)
    for dim, size in zip(port.type.tensor_type.shape.dim, sizes, strict=True):
        if size is not None:
            dim.dim_value = size
    verification = verify(model)
    assert verification.same, verification.difference
    assert verification.cases >= 200
    port.type.tensor_type.shape.dim[0].dim_value = int(name == "offsets")  # for nothing at all
    assert verify(model).same


def test_another_reduction_is_told() -> None:
    for model in (segment_reduce_model("sum"), gather_reduce_model("sum")):
        verification = verify(model, reduce="mean")
        assert verification.kind.endswith("mean")
        assert "output at (" in verification.difference


# The command


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.file)
def test_the_committed_models_are_verified(entry, monkeypatch, capsys) -> None:
    assert run(monkeypatch, "verify", str(ROOT / "onnx_models" / entry.file)) == 0
    assert "cases equal to the reference" in capsys.readouterr().out


def test_the_command_knows_segments(tmp_path: Path, monkeypatch, capsys) -> None:
    path = tmp_path / "segments.onnx"
    onnx.save(segment_reduce_model("amin", by="counts"), path)
    assert run(monkeypatch, "verify", str(path)) == 0
    assert "segment_reduce by counts, amin: 300 cases equal" in capsys.readouterr().out
    assert run(monkeypatch, "verify", str(path), "--reduce", "amax") == 1
    assert "segment_reduce by counts, amax: DIFFERENT" in capsys.readouterr().out


def test_the_command_tells_a_difference(tmp_path: Path, monkeypatch, capsys) -> None:
    path = tmp_path / "wrong.onnx"
    onnx.save(edited(masking_model(0.5), _polarity), path)
    assert run(monkeypatch, "verify", str(path)) == 1
    out = capsys.readouterr().out
    assert "ratio 0.5: DIFFERENT on onnxruntime" in out
    assert "in case 1, with x [1, 1, 1]" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("none.onnx",), "there is no file none.onnx"),
        ((__file__,), "is not a model that onnxruntime"),
        ((str(ROOT),), "is a folder: an ONNX file is needed"),
        (("{model}", "--ratio", "2"), "mask_ratio is 2.0"),
        (("{model}", "--name", "x"), "--name is x: OURS=THEIRS is needed"),
        (("{model}", "--name", "x=tokens"), "names has tokens"),
    ],
)
def test_mistakes_with_the_command(arguments, text: str, monkeypatch, capsys) -> None:
    model = ROOT / "onnx_models" / "mae_masking.onnx"
    assert run(monkeypatch, "verify", *(a.format(model=model) for a in arguments)) == 2
    message = capsys.readouterr().err
    assert text in message
    assert message.count("\n") == 1


def test_the_export_command(tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "models"
    assert run(monkeypatch, "export", "-o", str(out)) == 0
    for path in (ROOT / "onnx_models").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert run(monkeypatch, "export", "-o", str(out), "--check") == 0
    (out / "mae_restore.onnx").write_bytes(b"old")
    capsys.readouterr()
    assert run(monkeypatch, "export", "-o", str(out), "--check") == 1
    assert capsys.readouterr().out == "stale: mae_restore.onnx\n"
    assert run(monkeypatch, "export", "-o", str(out), "--only", "none.onnx") == 2
    assert "no published model is called none.onnx" in capsys.readouterr().err


# The runner


@pytest.mark.parametrize("ratio", [1.5, -0.1, float("nan")])
def test_a_ratio_input_out_of_range_is_refused(ratio: float) -> None:
    session = Session(masking_model(ratio_input=True))
    x, noise = np.zeros((1, 4, 1), np.float32), np.zeros((1, 4), np.float32)
    with pytest.raises(ValueError, match="it must be between 0 and 1"):
        session.run(x=x, noise=noise, mask_ratio=ratio)


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        (([1], {}), TypeError, "inputs is of type list: a mapping"),
        ((None, {"noise": [[1.0, 2.0], [3.0]]}), TypeError, "'noise' of type list makes no array"),
        ((None, {"noise": [[1.0, 2.0]]}), TypeError, "'noise' is float64: it must be float32"),
        ((None, {"noise": "text"}), TypeError, "input 'noise' is str"),
        ((None, {"noise": None}), TypeError, "input 'noise' is object"),
        (
            (None, {"noise": torch.rand(1, 4, requires_grad=True)}),
            TypeError,
            "'noise' of type Tensor makes no array",
        ),
        ((None, {"nose": 1}), TypeError, "has no input 'nose': its inputs are noise"),
        ((None, {}), TypeError, "noise not given"),
        (
            (None, {"noise": np.zeros(4, np.float32)}),
            ValueError,
            "has shape (4,): it must be [N, L]",
        ),
    ],
)
def test_mistakes_with_the_runner(inputs, error: type, text: str) -> None:
    session = Session(masking_model(0.5, with_x=False))
    with pytest.raises(error) as raised:
        session.run(inputs[0], **inputs[1])
    assert text in str(raised.value)


FOREIGN = """
<ir_version: 8, opset_import: ["": 17]>
f (float[{batch}, 2] a) => (int64[2] b) {{ b = Shape(a) }}"""


@pytest.mark.parametrize("batch", ["N", "?"])
def test_an_empty_batch_of_others_on_an_onnxruntime_that_it_can_end(
    batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FOREIGN.format(batch="N" if batch == "N" else "M")
    model = onnx.parser.parse_model(text)
    if batch == "?":
        model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    session, empty = Session(model), np.zeros((0, 2), np.float32)
    assert session.run(a=empty)["b"].tolist() == [0, 2]
    monkeypatch.setattr(runner, "_version", lambda: (1, 30, 0))
    with pytest.raises(ValueError, match=r"has shape \(0, 2\), which is empty"):
        session.run(a=empty)
    assert session.run(a=np.zeros((3, 2), np.float32))["b"].tolist() == [3, 2]
    ours = Session(masking_model(0.5))
    result = ours.run(x=np.zeros((0, 4, 2), np.float32), noise=np.zeros((0, 4), np.float32))
    assert result["x_masked"].shape == (0, 2, 2)


def test_bfloat16_goes_through_io_binding() -> None:
    x = np.random.default_rng(0).random((2, 8, 4)).astype(ml_dtypes.bfloat16)
    noise = np.random.default_rng(1).random((2, 8), np.float32)
    result = Session(masking_model(0.5, dtype="bfloat16")).run(x=x, noise=noise)
    want = nbgather.random_masking(x, 0.5, noise=noise)
    assert result["x_masked"].dtype == ml_dtypes.bfloat16
    assert result["x_masked"].tobytes() == want.x_masked.tobytes()
