"""What deployers do to models: quantise, slim, halve. The masks stay the same, byte for byte."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
import reference_results

from nbgather.onnx import Session, attach, masking_model, restore_model, verify

MODELS = Path(__file__).parents[1] / "onnx_models"
N, L, D = 3, 21, 16


@pytest.fixture(autouse=True)
def cached_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    reference_results.cache(monkeypatch)


def encoder(opset: int, domain: str = "", doubled: bool = False) -> Any:
    """Two layers of D numbers, whose weights say what its ports do not."""
    generator = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(generator.standard_normal((D, D)).astype("f4"), name)
        for name in ("w1", "w2")
    ]
    make, port = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            make("MatMul", ["visible", "w1"], ["hidden"]),
            make("Relu", ["hidden"], ["active"]),
            make("MatMul", ["active", "w2"], ["latent"]),
        ],
        "encoder",
        [port("visible", 1, ["N", "K", "D"])],
        [port("latent", 1, ["N", "K", "D"])],
        weights,
    )
    imports = [onnx.helper.make_opsetid(domain, opset)]
    imports += [onnx.helper.make_opsetid("ai.onnx", opset)] if doubled else []
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=9)


def joined(noise: str) -> Any:
    return attach(masking_model(0.75, noise=noise, opset=18), encoder(18))


def feeds(noise: str, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((N, L, D)).astype("f4")
    if noise == "input":
        return {"x": x, "noise": generator.random((N, L), np.float32)}
    return {
        "x": x, "seed": np.array(seed), "sample_ids": generator.integers(0, 2**31, N),
        "epoch": np.array(3),
    }  # fmt: skip


class Batches:
    """What static quantisation calibrates with."""

    def __init__(self, noise: str) -> None:
        self.left = [feeds(noise, seed) for seed in range(3)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def quantised_dynamically(model: Any, noise: str, folder: Path) -> Any:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(model, folder / "model.onnx")
    quantize_dynamic(folder / "model.onnx", folder / "result.onnx")
    result = onnx.load(folder / "result.onnx")
    assert "MatMulInteger" in {node.op_type for node in result.graph.node}
    return result


def quantised_statically(model: Any, noise: str, folder: Path) -> Any:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    CalibrationDataReader.register(Batches)
    onnx.save(model, folder / "model.onnx")
    quant_pre_process(folder / "model.onnx", folder / "shaped.onnx")
    quantize_static(folder / "shaped.onnx", folder / "result.onnx", Batches(noise))
    result = onnx.load(folder / "result.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in result.graph.node}
    return result


def slimmed(model: Any, noise: str, folder: Path) -> Any:
    import onnxslim

    return onnxslim.slim(model)


def simplified(model: Any, noise: str, folder: Path) -> Any:
    if sys.version_info < (3, 11):
        pytest.skip("onnxsim has no wheels for Python 3.10")
    import onnxsim

    simplified_model, same = onnxsim.simplify(model)
    assert same
    return simplified_model


def halved(model: Any, noise: str, folder: Path) -> Any:
    """In float16, inputs and outputs too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    result = convert_float_to_float16(model)
    assert result.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    return result


def halved_within(model: Any, noise: str, folder: Path) -> Any:
    """In float16, but for the inputs and outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    result = convert_float_to_float16(model, keep_io_types=True)
    assert "graph_input_cast0" in {node.name for node in result.graph.node}
    return result


TOOLS = (quantised_dynamically, quantised_statically, slimmed, simplified, halved, halved_within)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # some of the tools leave files where they are called
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", ["input", "seed"])
@pytest.mark.parametrize("tool", TOOLS)
def test_tools_keep_the_masks(tool: Any, noise: str, workplace: Path) -> None:
    model = joined(noise)
    before = Session(model)
    after = Session(tool(copy.deepcopy(model), noise, workplace))
    for seed in range(5, 9):
        # Numbers that float16 has too.
        inputs = {
            name: array.astype("f2").astype("f4") if array.dtype == "f4" else array
            for name, array in feeds(noise, seed).items()
        }
        if noise == "input":
            scores = special_scores("f2" if tool in (halved, halved_within) else "f4")
            inputs["noise"][0] = np.random.default_rng(seed).choice(scores, L)
        want = before.run(inputs)
        got = after.run({p.name: inputs[p.name].astype(p.dtype) for p in ports(after)})
        exact = ["mask", "ids_restore"]
        if tool is not quantised_statically:  # which rounds what goes into the encoder
            exact.append("x_masked")
        for name in exact:
            if tool is halved and want[name].dtype == "f4":
                got[name] = halves_as_singles(got[name])
            assert want[name].dtype == got[name].dtype
            assert want[name].tobytes() == got[name].tobytes(), name
        assert want["latent"].shape == got["latent"].shape


def special_scores(dtype: str) -> np.ndarray:
    """The largest numbers, 0, infinities, NaN."""
    top = np.array(np.finfo(dtype).max)
    below = np.nextafter(top, np.zeros_like(top))
    lowest = np.nextafter(below, np.zeros_like(top))
    return np.array([top, below, lowest, -top, -below, 0, -0.0, 1, np.inf, -np.inf, np.nan], "f4")


def ports(session: Session) -> tuple[Any, ...]:
    return *session.inputs, *session.optional


def halves_as_singles(array: np.ndarray) -> np.ndarray:
    assert array.dtype == np.float16
    return array.astype(np.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_shapes_of_the_published_models_can_be_inferred(path: Path, workplace: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(path, workplace / "result.onnx")  # without skip_symbolic_shape
    assert verify(workplace / "result.onnx").same


@pytest.mark.parametrize("options", [{}, {"domain": "ai.onnx"}, {"doubled": True}])
def test_one_import_for_each_domain(options: dict[str, Any]) -> None:
    model = attach(masking_model(0.5, opset=18), encoder(18, **options))
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]


def test_two_opsets_of_one_domain_are_refused() -> None:
    model = encoder(18)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 17))
    with pytest.raises(ValueError, match="encoder imports opsets 18 and 17 of one domain"):
        attach(masking_model(0.5), model)


def test_an_encoder_that_is_not_valid_is_told() -> None:
    model = encoder(18)
    model.graph.node[0].op_type = "MatMull"
    with pytest.raises(ValueError, match=r"encoder is not valid: .*MatMull"):
        attach(masking_model(0.5), model)


def test_paths_will_do_for_both(tmp_path: Path) -> None:
    onnx.save(masking_model(0.5), tmp_path / "masking.onnx")
    onnx.save(encoder(17), tmp_path / "encoder.onnx")
    result = attach(tmp_path / "masking.onnx", str(tmp_path / "encoder.onnx"))
    assert result == attach(masking_model(0.5), encoder(17))


def test_an_attached_model_is_verified_at_the_width_it_takes() -> None:
    model = joined("input")
    assert model.graph.input[0].type.tensor_type.shape.dim[2].dim_value == D
    result = verify(model)
    assert result.same
    assert result.cases > 50


def test_fixed_sizes_that_are_too_large_are_told() -> None:
    model = masking_model(0.5)
    for port in model.graph.input:
        for dim in port.type.tensor_type.shape.dim:
            dim.dim_value = 2**20
    with pytest.raises(ValueError, match="one case has more than 16777216 items"):
        verify(model)
    model = restore_model()
    for port in model.graph.input:
        for dim in port.type.tensor_type.shape.dim:
            dim.dim_value = 2**20
    with pytest.raises(ValueError, match="one case has more than 16777216 items"):
        verify(model)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="is no regular file: an ONNX file is needed"):
        verify(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="is a folder: an ONNX file is needed"):
        verify(tmp_path)


def test_inputs_that_nobody_knows_are_told() -> None:
    model = masking_model(0.5)
    model.graph.input[0].name = "images"
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if name == "x":
                node.input[k] = "images"
    with pytest.raises(ValueError, match=r"has inputs that no masking.* has \(images\)"):
        verify(model)
    assert verify(model, names={"x": "images"}).same
