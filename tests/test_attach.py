"""Masking joined to a real patch embedding and encoder, exported from torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from cases import same

import nbgather
from nbgather.onnx import Session, attach, masking_model

FLOATS = np.random.default_rng(0).random


class Embed(torch.nn.Module):
    """The first half of a small ViT: patches of 4 to 32 numbers, and their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Conv2d(3, 32, 4, 4)
        self.position = torch.nn.Parameter(torch.randn(1, 64, 32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.project(images).flatten(2).transpose(1, 2) + self.position


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(32), torch.nn.LayerNorm(32)
        self.qkv, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 32)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm1(x)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))
        self.norm = torch.nn.LayerNorm(32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def exported(
    module: torch.nn.Module, example: torch.Tensor, source: str, result: str, axes: dict[int, str]
) -> onnx.ModelProto:
    dynamic = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (example,), dynamo=True, opset_version=18, verbose=False,
            input_names=[source], output_names=[result], dynamic_shapes=(dynamic,),
        )  # fmt: skip
    return program.model_proto


@pytest.fixture(scope="module")
def vit() -> tuple[Embed, Encoder, onnx.ModelProto, onnx.ModelProto]:
    torch.manual_seed(0)
    embed, encoder = Embed().eval(), Encoder().eval()
    with torch.no_grad():
        first = exported(embed, torch.zeros(2, 3, 32, 32), "images", "tokens", {0: "N"})
        second = exported(encoder, torch.zeros(2, 16, 32), "visible", "latent", {0: "N", 1: "K"})
    return embed, encoder, first, second


@pytest.mark.parametrize("gather", ["elements", "nd"])
def test_a_vit_with_masking_equals_torch(gather: str, vit, tmp_path: Path) -> None:
    embed, encoder, first, second = vit
    path = tmp_path / "encoder.onnx"
    onnx.save(second, path)
    joined = attach(masking_model(0.75, gather=gather, ids_keep=True), path, embed=first)
    assert [p.name for p in joined.graph.input] == ["images", "noise"]
    assert [p.name for p in joined.graph.output] == [
        *("latent", "x_masked", "mask", "ids_restore", "ids_keep")
    ]
    session = Session(joined)
    assert session.metadata["mask_ratio"] == "0.75"
    for n in (1, 3):
        images, noise = torch.randn(n, 3, 32, 32), torch.rand(n, 64)
        result = session.run(images=images.numpy(), noise=noise.numpy())
        with torch.no_grad():
            tokens = embed(images)
            want = nbgather.random_masking(tokens, 0.75, noise=noise)
            latent = encoder(want.x_masked)
        same(result["mask"], want.mask.numpy())
        same(result["ids_restore"], want.ids_restore.numpy())
        # Sums in float32, in another order than torch's.
        np.testing.assert_allclose(result["x_masked"], want.x_masked, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result["latent"], latent, rtol=1e-4, atol=1e-4)


def test_without_an_embedding_tokens_go_in(vit) -> None:
    _, encoder, _, second = vit
    session = Session(attach(masking_model(0.5), second))
    assert [port.name for port in session.inputs] == ["x", "noise"]
    x, noise = torch.randn(2, 10, 32), torch.rand(2, 10)
    result = session.run(x=x.numpy(), noise=noise.numpy())
    want = nbgather.random_masking(x, 0.5, noise=noise)
    same(result["x_masked"], want.x_masked.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(
            result["latent"], encoder(want.x_masked), rtol=1e-4, atol=1e-4
        )  # sums in another order


DOUBLE = """
<ir_version: 9, opset_import: ["": {opset}]>
{name} ({dtype}[N, K, 2] {source}) => ({dtype}[N, K, 2] {result})
{{ {result} = Add({source}, {source}) }}"""


def double(name="f", source="visible", result="latent", dtype="float", opset=18) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        DOUBLE.format(name=name, source=source, result=result, dtype=dtype, opset=opset)
    )


@pytest.mark.parametrize("names", [("x", "x_masked"), ("noise", "mask"), ("visible", "out")])
def test_names_that_are_taken_already(names: tuple[str, str]) -> None:
    source, result = names
    joined = attach(masking_model(0.5), double(source=source, result=result))
    out = result if result == "out" else f"encoder/{result}"
    x, noise = FLOATS((2, 8, 2), "f4"), FLOATS((2, 8), "f4")
    result = Session(joined).run(x=x, noise=noise)
    same(result[out], nbgather.random_masking(x, 0.5, noise=noise).x_masked * 2)


def test_a_seeded_masking_with_both() -> None:
    embed = double(name="e", source="x", result="tokens")
    masking = masking_model(0.5, noise="seed", optional_epoch=True)
    joined = attach(masking, double(), embed=embed)
    assert [p.name for p in joined.graph.input] == ["embed/x", "seed", "sample_ids", "epoch"]
    x, ids = FLOATS((2, 8, 2), "f4"), np.array([7, 2**31 - 1])
    session = Session(joined)
    for epoch, given in ((0, {}), (1, {"epoch": 1})):
        result = session.run({"embed/x": x}, seed=3, sample_ids=ids, **given)
        want = nbgather.random_masking(x * 2, 0.5, seed=3, sample_ids=ids, epoch=epoch)
        same(result["latent"], want.x_masked * 2)
        same(result["ids_restore"], want.ids_restore)


def test_every_opset_that_the_masking_can_be_written_at() -> None:
    x, noise = FLOATS((2, 8, 2), "f4"), FLOATS((2, 8), "f4")
    want = nbgather.random_masking(x, 0.5, noise=noise).x_masked * 2
    for opset in (13, 15, 17, 20, 22):
        result = Session(attach(masking_model(0.5), double(opset=opset))).run(x=x, noise=noise)
        same(result["latent"], want)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: attach("mask.onnx", double()), FileNotFoundError, "there is no file mask.onnx"),
        (lambda: attach(3, double()), TypeError, "masking is of type int"),
        (lambda: attach(double(), double()), ValueError, "not a model of masking_model"),
        (
            lambda: attach(masking_model(with_x=False), double()),
            ValueError,
            "not a model of masking_model(...) with x",
        ),
        (lambda: attach(masking_model(), 3), TypeError, "encoder is of type int"),
        (lambda: attach(masking_model(), "none.onnx"), FileNotFoundError, "no file none.onnx"),
        (lambda: attach(masking_model(), __file__), ValueError, "is not an ONNX model"),
        (
            lambda: attach(masking_model(), double(), tokens="x"),
            ValueError,
            "encoder has no input 'x': its inputs are visible",
        ),
        (
            lambda: attach(masking_model(), double(), embed=double(), embedded="z"),
            ValueError,
            "embed has no output 'z': its outputs are latent",
        ),
        (
            lambda: attach(masking_model(), double(dtype="double")),
            ValueError,
            "'visible' is DOUBLE and the masking's 'x_masked' is FLOAT",
        ),
        (
            lambda: attach(masking_model(noise="seed"), double(opset=17)),
            ValueError,
            "the encoder has opset 17: this masking needs 18",
        ),
        (
            lambda: attach(masking_model(), double(), embed=double(opset=17)),
            ValueError,
            "encoder and embed have opsets 17, 18",
        ),
        (
            lambda: attach(masking_model(), fixed()),
            ValueError,
            "has a fixed number of tokens, 49",
        ),
    ],
)
def test_refusals(call, error: type, text: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)


def fixed() -> onnx.ModelProto:
    model = double()
    dim = model.graph.input[0].type.tensor_type.shape.dim[1]
    dim.Clear()
    dim.dim_value = 49
    return model


def test_what_is_given_is_left_as_it_is() -> None:
    masking, encoder = masking_model(0.5), double()
    before = masking.SerializeToString(), encoder.SerializeToString()
    attach(masking, encoder)
    assert (masking.SerializeToString(), encoder.SerializeToString()) == before
