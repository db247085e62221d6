"""The models: the paper's recipe at every size, seeds, restoring, gather, refusals, files."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import random_bits, rng, same
from onnx_recipe import assert_same, dtype_of, noises, recipe

import nbgather
from nbgather.onnx import (
    CATALOG,
    Session,
    export_all,
    gather_model,
    masking_model,
    restore_model,
    run,
    stale_files,
)

ROOT = Path(__file__).resolve().parents[1]
TOKENS = ("float32", "float64", "float16", "bfloat16", "int8", "uint16", "int32", "int64", "bool")


# Masking


@pytest.mark.parametrize("gather", ["elements", "nd"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.6, 0.75, 0.9, 1.0])
def test_one_model_at_every_size(gather: str, ratio: float) -> None:
    session = Session(masking_model(ratio, gather=gather, ids_keep=True), threads=1)
    generator = rng(f"{gather}{ratio}")
    for length in (1, 2, 5, 16, 49, 196, 197, 300):
        n, width = (int(v) for v in generator.integers(1, 9, 2))
        x = random_bits(generator, (n, length, width), "float32")
        for noise in noises(generator, n, length, "float32"):
            assert_same(session.run(x=x, noise=noise), recipe(x, noise, ratio))


@pytest.mark.parametrize("noise_dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_of_noise(noise_dtype: str) -> None:
    generator = rng(noise_dtype)
    session = Session(masking_model(0.6, noise_dtype=noise_dtype), threads=1)
    for length in (1, 7, 50):
        x = random_bits(generator, (4, length, 3), "float32")
        for noise in noises(generator, 4, length, noise_dtype):
            assert_same(session.run(x=x, noise=noise), recipe(x, noise, 0.6))


@pytest.mark.parametrize("gather", ["elements", "nd"])
@pytest.mark.parametrize("dtype", TOKENS)
def test_every_dtype_of_tokens(dtype: str, gather: str) -> None:
    generator = rng(dtype)
    x = random_bits(generator, (3, 10, 4), dtype_of(dtype))
    noise = generator.random((3, 10)).astype(np.float32)
    result = run(masking_model(0.5, gather=gather, dtype=dtype), x=x, noise=noise)
    assert_same(result, recipe(x, noise, 0.5))


def test_ratio_as_an_input() -> None:
    session = Session(masking_model(ratio_input=True), threads=1)
    generator = rng("ratio")
    for length in (1, 10, 49, 196, 1000):
        x = random_bits(generator, (2, length, 2), "float32")
        noise = generator.random((2, length)).astype(np.float32)
        for ratio in (0.0, 0.1, 0.3, 0.7, 0.75, 0.9, 1.0, *generator.random(5).tolist()):
            result = session.run(x=x, noise=noise, mask_ratio=ratio)
            assert_same(result, recipe(x, noise, ratio))


def test_without_tokens() -> None:
    noise = rng("alone").random((5, 33)).astype(np.float32)
    result = run(masking_model(0.6, with_x=False, ids_keep=True), noise=noise)
    assert list(result) == ["mask", "ids_restore", "ids_keep"]
    assert_same(result, recipe(np.zeros((5, 33, 1), np.float32), noise, 0.6))


@pytest.mark.parametrize("gather", ["elements", "nd"])
def test_empty_sizes(gather: str) -> None:
    for shape in ((0, 16, 4), (2, 0, 4), (2, 16, 0)):
        x, noise = np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32)
        result = run(masking_model(0.75, gather=gather), x=x, noise=noise)
        assert_same(result, recipe(x, noise, 0.75))


@pytest.mark.parametrize("noise_shape", [(2, 15), (2, 17), (1, 16), (3, 16), (2, 1), (16, 2)])
@pytest.mark.parametrize("options", [{}, {"gather": "nd"}, {"ratio_input": True}])
def test_other_sizes_fail_in_the_graph(noise_shape: tuple[int, int], options: dict) -> None:
    import onnxruntime

    # Without our runner, which looks at the sizes first.
    model = masking_model(0.75, **options).SerializeToString()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, settings)
    feeds = {"x": np.zeros((2, 16, 3), np.float32), "noise": np.zeros(noise_shape, np.float32)}
    if "ratio_input" in options:
        feeds["mask_ratio"] = np.array(0.75)
    assert session.run(None, feeds | {"noise": np.zeros((2, 16), np.float32)})
    with pytest.raises(Exception, match="sizes_checked"):
        session.run(None, feeds)


# Restoring


@pytest.mark.parametrize("gather", ["elements", "nd"])
@pytest.mark.parametrize("dtype", TOKENS)
def test_restore(dtype: str, gather: str) -> None:
    session = Session(restore_model(gather=gather, dtype=dtype), threads=1)
    generator = rng(dtype)
    for length, keep in ((1, 0), (1, 1), (16, 4), (49, 49), (50, 0)):
        x = random_bits(generator, (3, length, 4), dtype_of(dtype))
        token = random_bits(generator, (4,), dtype_of(dtype))
        tokens, _, ids = nbgather.random_masking(x, num_keep=keep, seed=3)
        result = session.run(x_visible=tokens, ids_restore=ids, mask_token=token)
        same(result["x"], nbgather.restore_tokens(tokens, ids, token))


@pytest.mark.parametrize("rank", [-1, 16, 2**40])
def test_a_rank_out_of_range_fails_in_the_graph(rank: int) -> None:
    ids = np.arange(16)[None].copy()
    ids[0, 5] = rank
    token = np.zeros(3, np.float32)
    with pytest.raises(RuntimeError, match="failed"):
        run(restore_model(), x_visible=np.zeros((1, 4, 3), np.float32), ids_restore=ids,
            mask_token=token)  # fmt: skip


# Gather


@pytest.mark.parametrize(("rank", "dim"), [(r, d) for r in (1, 2, 3, 4) for d in range(-r, r)])
def test_gather(rank: int, dim: int) -> None:
    session = Session(gather_model(dim, rank), threads=1)
    generator = rng(f"{rank}{dim}")
    for _ in range(5):
        shape = tuple(int(v) for v in generator.integers(1, 6, rank))
        index_shape = list(shape)
        index_shape[dim] = int(generator.integers(1, 9))
        x = random_bits(generator, shape, "float32")
        index = generator.integers(0, shape[dim], index_shape)
        same(session.run(data=x, indices=index)["output"], nbgather.gather(x, dim, index))
    index.reshape(-1)[-1] = shape[dim]
    with pytest.raises(RuntimeError, match="failed"):
        session.run(data=x, indices=index)
    with pytest.raises(IndexError):
        nbgather.gather(x, dim, index)


@pytest.mark.parametrize("dtype", TOKENS)
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_gather_dtypes(dtype: str, index_dtype: str) -> None:
    generator = rng(dtype)
    x = random_bits(generator, (3, 4), dtype_of(dtype))
    index = generator.integers(0, 4, (3, 6)).astype(index_dtype)
    result = run(gather_model(1, 2, dtype=dtype, index_dtype=index_dtype), data=x, indices=index)
    same(result["output"], nbgather.gather(x, 1, index))


# The models themselves


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "ratio": lambda: masking_model(ratio_input=True, ids_keep=True),
    "bfloat16": lambda: masking_model(dtype="bfloat16", noise_dtype="bfloat16", gather="nd"),
    "float64": lambda: masking_model(noise_dtype="float64"),
    "seed_alone": lambda: masking_model(noise="seed", with_x=False, ids_keep=True),
    "words": lambda: masking_model(noise="seed", seed_words=True, with_x=False),
    "rounded": lambda: masking_model(0.55),
    "opset21": lambda: masking_model(noise="seed", opset=21, ir_version=10),
    "gather": lambda: gather_model(-2, 5, dtype="uint8", index_dtype="int32"),
    "restore": lambda: restore_model(gather="nd", dtype="bool"),
} | {entry.file: entry.build for entry in CATALOG}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_sound_and_speak_for_themselves(name: str) -> None:
    model = MODELS[name]()
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    known = {value.name for value in inferred.graph.value_info}
    known |= {value.name for value in inferred.graph.output}
    nodes = model.graph.node
    assert {name for node in nodes for name in node.output} <= known
    assert all(node.name for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)
    assert all(node.doc_string for node in nodes)
    ports = [*model.graph.input, *model.graph.output]
    assert model.doc_string
    assert all(port.doc_string for port in ports)
    assert {node.domain for node in nodes} == {""}
    assert model.producer_name == "nbgather"
    assert model.producer_version == nbgather.__version__
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["license"] == "Apache-2.0"
    if "mae_mask" in name:
        assert metadata["mask_ratio"] == "0.75"


def test_every_opset_that_onnx_knows() -> None:
    """Building checks a model in full."""
    newest = onnx.defs.onnx_opset_version()
    for opset in range(13, newest + 1):
        nodes = [node.op_type for node in masking_model(0.55, opset=opset).graph.node]
        assert nodes == [node.op_type for node in masking_model(0.55).graph.node]
        restore_model(opset=opset)
    for opset in (18, newest):
        masking_model(noise="seed", seed_words=True, with_x=False, opset=opset)


def test_a_call_gives_the_same_bytes_every_time() -> None:
    for entry in CATALOG:
        assert entry.build().SerializeToString() == entry.build().SerializeToString()
    code = (
        "import sys; from nbgather.onnx import masking_model as m\n"
        "sys.stdout.buffer.write(m(0.75, noise='seed').SerializeToString())"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert child.stdout == masking_model(0.75, noise="seed").SerializeToString()


# The files


def test_the_committed_models_are_fresh() -> None:
    assert stale_files(ROOT / "onnx_models") == []


def _check(folder: Path) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "scripts" / "export_onnx.py"), "--check"]
    done = subprocess.run([*command, "--out", str(folder)], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_a_stale_missing_or_extra_file_is_seen(tmp_path: Path) -> None:
    export_all(tmp_path)
    assert stale_files(tmp_path) == []
    path = tmp_path / "mae_masking.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (tmp_path / "mae_restore.onnx").unlink()
    (tmp_path / "other.onnx").write_bytes(b"")
    lines = ["stale: mae_masking.onnx", "missing: mae_restore.onnx", "extra: other.onnx"]
    assert stale_files(tmp_path) == lines
    assert _check(tmp_path) == (1, "\n".join(lines) + "\n")
    assert _check(ROOT / "onnx_models")[0] == 0


# Refusals

X, NOISE = np.zeros((2, 8, 3), np.float32), np.zeros((2, 8), np.float32)
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "ratio": (lambda: masking_model(1.5), ValueError, "mask_ratio is 1.5"),
    "ratio_nan": (lambda: masking_model(math.nan), ValueError, "mask_ratio is nan"),
    "choice": (lambda: masking_model(gather="rows"), ValueError, "gather is 'rows'"),
    "dtype": (lambda: masking_model(dtype="complex64"), TypeError, "complex64"),
    "noise_dtype": (lambda: masking_model(noise_dtype="int8"), TypeError, "int8"),
    "opset": (lambda: masking_model(opset=3), ValueError, "3"),
    "epoch": (lambda: masking_model(optional_epoch=True), ValueError, "for noise='seed'"),
    "words": (lambda: masking_model(seed_words=True), ValueError, "seed_words is for noise='seed'"),
    "seed_opset": (lambda: masking_model(noise="seed", opset=17), ValueError, "17"),
    "dim": (lambda: gather_model(3, 3), IndexError, "3"),
    "rank": (lambda: gather_model(0, 0), ValueError, "rank is 0"),
    "missing": (lambda: run(masking_model(), x=X), TypeError, "noise not given"),
    "unknown": (lambda: run(masking_model(), x=X, noise=NOISE, y=X), TypeError, "no input 'y'"),
    "wrong_dtype": (
        lambda: run(masking_model(), x=X, noise=NOISE.astype(np.float64)),
        TypeError,
        "input 'noise' is float64: it must be float32",
    ),
    "ndim": (lambda: run(masking_model(), x=X, noise=NOISE[0]), ValueError, "shape (8,)"),
    "sizes": (
        lambda: run(masking_model(), x=X, noise=NOISE[:, :7]),
        ValueError,
        "L = 7",
    ),
    "text": (lambda: run(b"not a model"), ValueError, "is not a model that onnxruntime"),
    "no_file": (lambda: run("/no/such/model.onnx"), FileNotFoundError, "there is no file"),
    "folder": (lambda: run(ROOT), ValueError, "is a folder"),
    "kind": (lambda: run(3), TypeError, "int"),
    "provider": (
        lambda: Session(masking_model(), providers=["None"]),
        ValueError,
        "providers has 'None'",
    ),
    "threads": (lambda: Session(masking_model(), threads=0), ValueError, "threads is 0"),
    "only": (lambda: export_all("/tmp", ["none.onnx"]), ValueError, "none.onnx"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert text in str(raised.value), str(raised.value)
    assert "\n" not in str(raised.value)
