"""The rows: what is timed, against whom, and what is to be reached."""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import nbgather
from nbgather.apps.bench.measure import interleave
from nbgather.kernels.cpu import launch as cpu
from nbgather.kernels.cpu import threads
from nbgather.kernels.memory import memory_address

__all__ = ["ROWS", "Contest", "Row", "run_rows"]

Call = Callable[[], Any]

#: What the copy of as many bytes is called.
COPY = "nbgather copy of as many bytes"


@dataclass
class Contest:
    """The contestants of a row, on arrays that they share.

    Attributes
    ----------
    ours : callable
        nbgather's call, with a fresh result.
    peers : dict of str to callable
        The others' calls; each is to give the same bytes, unless ``random``.
    into : callable, optional
        nbgather's call with ``out=``.
    peers_into : dict of str to callable
        The others' calls with ``out=``.
    nbytes : int
        Bytes that must be moved: index read, source touched, result written.
    batch : int
        Calls in a turn.
    copied : callable, optional
        A copy of as many bytes, by all cores into memory that is there.
    random : bool
        Every contestant draws its own noise, so only shapes can be compared.
    scales : bool
        Whether nbgather's own threads do the work.
    """

    ours: Call
    peers: dict[str, Call]
    nbytes: int
    into: Call | None = None
    peers_into: dict[str, Call] = field(default_factory=dict)
    batch: int = 1
    copied: Call | None = None
    random: bool = False
    scales: bool = True


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    name, group, about : str
        What it is called, which family it belongs to, and what is done.
    make : callable
        Gives the :class:`Contest`, or None where a function is missing.
    targets : dict of str to float
        Ratios to reach: a peer's name, ``best``, ``into`` (best peer over ``out=``) or ``copy``
        (at most so many times a copy of the same bytes).
    """

    name: str
    group: str
    about: str
    make: Callable[[], Contest | None]
    targets: dict[str, float] = field(default_factory=lambda: {"best": 1.0})


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def _gather(x: np.ndarray, dim: int, index: np.ndarray, *, batch: int = 1) -> Contest:
    """torch.gather's work by all; an expanded index stays expanded for whoever can take it."""
    out = np.empty(index.shape, x.dtype)
    plain = index.strides[-1] != 0
    peers: dict[str, Call] = {"numpy": lambda: np.take_along_axis(x, index, dim)}
    into: dict[str, Call] = {}
    if _has("torch"):
        import torch

        tx = torch.from_numpy(x)
        narrow = np.ascontiguousarray(index if plain else index[..., :1])
        ti = torch.from_numpy(narrow).expand(index.shape)
        to = torch.from_numpy(np.empty_like(out))
        peers["torch"] = lambda: torch.gather(tx, dim, ti)
        into["torch"] = lambda: torch.gather(tx, dim, ti, out=to)
        if not plain:
            # The way around torch.gather that its users know: rows of the flattened source.
            rows = index[..., 0]
            if x.ndim == 3:
                rows = rows + np.arange(x.shape[0])[:, None] * x.shape[1]
            flat, tr = tx.reshape(-1, x.shape[-1]), torch.from_numpy(rows.reshape(-1))
            shape = index.shape
            peers["torch.index_select"] = lambda: torch.index_select(flat, 0, tr).view(shape)
    if _has("jax"):
        import jax

        # jax has no strides: what is transposed is transposed within the call.
        turned = not x.flags.c_contiguous
        jx = jax.numpy.asarray(x.T if turned else x)
        ji = jax.numpy.asarray(index if plain else index[..., :1])
        function = jax.jit(
            lambda a, i: jax.numpy.take_along_axis(
                a.T if turned else a, i, dim, mode="promise_in_bounds"
            )
        )
        peers["jax"] = lambda: function(jx, ji).block_until_ready()
    if _has("onnxruntime") and plain and x.flags.c_contiguous:
        session = _session(
            nbgather_onnx().gather_model(
                dim, x.ndim, dtype=x.dtype.name, index_dtype=index.dtype.name
            )
        )
        peers["onnxruntime"] = lambda: session.run(None, {"data": x, "indices": index})[0]
    taken = index if plain else index[..., 0]
    touched = min(x.nbytes, index.size * x.itemsize)
    nbytes = taken.nbytes + touched + out.nbytes
    return Contest(
        lambda: nbgather.gather(x, dim, index),
        peers,
        nbytes,
        lambda: nbgather.gather(x, dim, index, out=out),
        into,
        batch,
        # A repeated index is read as well: its bytes count as bytes to be moved.
        _copy(nbytes // 2 if plain else out.nbytes),
    )


def _copy(nbytes: int) -> Call:
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    return lambda: cpu.copy(memory_address(target), memory_address(source), nbytes)


def nbgather_onnx() -> Any:
    from nbgather import onnx

    return onnx


def _session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads.num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _floats(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return _generator().random(shape, np.float32).astype(dtype)


def _square(dim: int, dtype: str = "float32", index_dtype: str = "int64") -> Contest:
    x = _floats((4096, 4096)) * 100
    index = np.random.default_rng(1).integers(0, 4096, x.shape)
    return _gather(x.astype(dtype), dim, index.astype(index_dtype))


def _transposed() -> Contest:
    x = _floats((4096, 4096)).T
    return _gather(x, 1, np.random.default_rng(1).integers(0, 4096, x.shape))


def _mae(expanded: bool) -> Contest:
    x = _floats((64, 196, 768))
    ids = np.argsort(_generator().random((64, 196)), 1)[:, :49, None]
    wide = np.broadcast_to(ids, (64, 49, 768))
    return _gather(x, 1, wide if expanded else np.ascontiguousarray(wide))


def _graph() -> Contest:
    rows = _generator().integers(0, 100_000, (500_000, 1))
    return _gather(_floats((100_000, 128)), 0, np.broadcast_to(rows, (500_000, 128)))


def _deberta() -> Contest:
    shape = (10, 10, 512, 512)
    return _gather(_floats(shape), 3, _generator().integers(0, 512, shape))


def _pick() -> Contest:
    return _gather(_floats((4096, 50257)), 1, _generator().integers(0, 50257, (4096, 1)), batch=20)


def _tiny(tensors: bool, grad: bool = False) -> Contest:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    index = np.array([[[0] * 4, [2] * 4]] * 2)
    if not tensors:
        return Contest(
            lambda: nbgather.gather(x, 1, index),
            {"numpy": lambda: np.take_along_axis(x, index, 1)},
            x.nbytes + index.nbytes,
            batch=2000,
        )
    import torch

    tx, ti = torch.from_numpy(x).requires_grad_(grad), torch.from_numpy(index)
    return Contest(
        lambda: nbgather.gather(tx, 1, ti),
        {"torch": lambda: torch.gather(tx, 1, ti)},
        x.nbytes + index.nbytes,
        batch=2000,
    )


def _scatter_add(values: int) -> Contest:
    import torch

    shape = (10, 10, 512, 512)
    x, src = np.zeros(shape, np.float32), _floats(shape)
    index = _generator().integers(0, values, shape)
    tx, ti, ts = (torch.from_numpy(a) for a in (x, index, src))
    return Contest(
        lambda: nbgather.scatter_add(x, 3, index, src),
        {"torch": lambda: torch.scatter_add(tx, 3, ti, ts)},
        2 * x.nbytes + index.nbytes + src.nbytes,
    )


def _recipe(x: Any, keep: int, *, expand: bool, noise: Any = None) -> tuple[Any, ...]:
    """The paper's random_masking in torch, its index repeated as published, or expanded."""
    import torch

    n, length, width = x.shape
    noise = torch.rand(n, length) if noise is None else noise
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep = ids_shuffle[:, :keep].unsqueeze(-1)
    wide = ids_keep.expand(-1, -1, width) if expand else ids_keep.repeat(1, 1, width)
    x_masked = torch.gather(x, dim=1, index=wide)
    mask = torch.ones([n, length])
    mask[:, :keep] = 0
    return x_masked, torch.gather(mask, dim=1, index=ids_restore), ids_restore


def _masking(shape: tuple[int, ...], ratio: float = 0.75) -> Contest:
    import torch

    x = _floats(shape)
    tx = torch.from_numpy(x)
    n, length, width = shape
    keep = int(length * (1 - ratio))

    return Contest(
        lambda: nbgather.random_masking(x, ratio, seed=1),
        {
            "published": lambda: _recipe(tx, keep, expand=False),
            "expand": lambda: _recipe(tx, keep, expand=True),
        },
        2 * n * keep * width * 4 + n * length * 12,
        batch=20 if n == 1 else 1,
        copied=_copy(n * keep * width * 4),
        random=True,
    )


def _mask_only() -> Contest:
    import torch

    def recipe() -> tuple[Any, ...]:
        ids_shuffle = torch.argsort(torch.rand(4096, 196), dim=1)
        ids_restore = torch.argsort(ids_shuffle, dim=1)
        mask = torch.ones([4096, 196])
        mask[:, :49] = 0
        return torch.gather(mask, dim=1, index=ids_restore), ids_restore

    x = np.empty((4096, 196, 0), np.float32)
    return Contest(
        lambda: nbgather.random_masking(x, 0.75, seed=1)[1:],
        {"published": recipe},
        4096 * 196 * 12,
        random=True,
    )


def _restore() -> Contest:
    import torch

    x = _floats((64, 196, 512))
    made = nbgather.random_masking(x, 0.75, seed=0)
    visible, ids, token = made.x_masked, made.ids_restore, np.zeros(512, np.float32)
    tv, ti, tt = (torch.from_numpy(a) for a in (visible, ids, token))

    def recipe() -> Any:
        tokens = tt.view(1, 1, -1).repeat(64, 147, 1)
        joined = torch.cat([tv, tokens], dim=1)
        return torch.gather(joined, 1, ti.unsqueeze(-1).repeat(1, 1, 512))

    return Contest(
        lambda: nbgather.restore_tokens(visible, ids, token),
        {"published": recipe},
        visible.nbytes + ids.nbytes + x.nbytes,
    )


def _masked_patches(normalise: bool) -> Contest:
    """Images to visible patches; torch cuts all patches, then masks them."""
    import torch

    pixels = _generator().integers(0, 256, (64, 3, 224, 224)).astype(np.uint8)
    images = pixels if normalise else pixels.astype(np.float32)
    tensor = torch.from_numpy(images)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    affine: dict[str, Any] = {"scale": 1 / 255, "mean": mean, "std": std} if normalise else {}
    kept = 64 * 49 * 768

    def cut(x: Any) -> Any:
        x = x.reshape(64, 3, 14, 16, 14, 16)
        return torch.einsum("nchpwq->nhwpqc", x).reshape(64, 196, 768)

    def first() -> tuple[Any, ...]:
        """As a data loader's transforms do it: the whole image is normalised."""
        m, s = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
        x = (tensor.float() * (1 / 255) - m) / s if normalise else tensor
        return _recipe(cut(x), 49, expand=True)

    def last() -> tuple[Any, ...]:
        """What is kept is cut from bytes, and only that normalised."""
        x, mask, ids_restore = _recipe(cut(tensor), 49, expand=True)
        m, s = (torch.tensor(v).repeat(256) for v in (mean, std))
        return (x.float() * (1 / 255) - m) / s, mask, ids_restore

    peers: dict[str, Call] = {"torch": first}
    if normalise:
        peers = {"torch, normalised first": first, "torch, normalised last": last}
    return Contest(
        lambda: nbgather.masked_patchify(images, 16, seed=1, **affine),
        peers,
        kept * images.itemsize + kept * 4 + 64 * 196 * 12,
        random=True,
    )


def _model(n: int, width: int, noise: str = "input", gather: str = "elements") -> Contest | None:
    """A model under onnxruntime; the peers are torch's recipe and the other models."""
    if not _has("onnxruntime"):
        return None
    import torch

    from nbgather.onnx import masking_model

    x, ids = _floats((n, 196, width)), np.arange(n)
    drawn = nbgather.token_noise(1, ids, 196)
    tx, tn = torch.from_numpy(x), torch.from_numpy(drawn)
    given = {"x": x, "noise": drawn}
    feeds = given
    if noise == "seed":
        feeds = {"x": x, "seed": np.array(1), "sample_ids": ids, "epoch": np.array(0)}

    def runner(model: Any, feeds: dict[str, np.ndarray]) -> Call:
        session = _session(model)
        return lambda: tuple(session.run(["x_masked", "mask", "ids_restore"], feeds))

    peers: dict[str, Call] = {
        "published": lambda: _recipe(tx, 49, expand=False, noise=tn),
        "expand": lambda: _recipe(tx, 49, expand=True, noise=tn),
    }
    if noise == "seed":
        peers["the model that takes noise"] = runner(masking_model(0.75, gather=gather), given)
    visible = nbgather.random_masking(x, 0.75, noise=drawn).x_masked
    return Contest(
        runner(masking_model(0.75, noise=noise, gather=gather), feeds),
        peers,
        2 * visible.nbytes + n * 196 * 16,
        copied=visible.copy,
        scales=False,
    )


ROWS: tuple[Row, ...] = (
    Row("MAE rows, repeated", "gather", "x[64,196,768] dim 1, index [64,49,768]",
        lambda: _mae(False), {"best": 1.0, "copy": 1.3}),
    Row("MAE rows, expanded", "gather", "the same, index expanded from [64,49,1]",
        lambda: _mae(True), {"best": 1.0, "copy": 1.3}),
    Row("square, dim 1", "gather", "x[4096,4096], int64 index",
        lambda: _square(1), {"best": 1.0, "into": 1.3}),
    Row("square, dim 0", "gather", "x[4096,4096], int64 index",
        lambda: _square(0), {"best": 1.0, "onnxruntime": 2.5}),
    Row("DeBERTa", "gather", "x[10,10,512,512] dim -1",
        _deberta, {"best": 1.0, "into": 1.3}),
    Row("graph rows", "gather", "x[100000,128], 500,000 expanded rows",
        _graph, {"best": 1.0, "copy": 1.3}),
    Row("log-prob pick", "gather", "x[4096,50257], index [4096,1]", _pick),
    Row("float16, dim 1", "gather", "x[4096,4096] float16", lambda: _square(1, "float16")),
    Row("int8, dim 1", "gather", "x[4096,4096] int8", lambda: _square(1, "int8")),
    Row("int32 index, dim 1", "gather", "x[4096,4096], int32 index",
        lambda: _square(1, index_dtype="int32")),
    Row("transposed, dim 1", "gather", "x[4096,4096].T", _transposed),
    Row("tiny, NumPy", "gather", "x[2,3,4]", lambda: _tiny(False)),
    Row("tiny, torch", "gather", "x[2,3,4]", lambda: _tiny(True), {"best": 0.5}),
    Row("tiny, torch, gradient", "gather", "x[2,3,4] that requires grad",
        lambda: _tiny(True, True), {"best": 1 / 3}),
    Row("scatter_add of 512", "gather", "[10,10,512,512], indices below 512",
        lambda: _scatter_add(512)),
    Row("scatter_add of 2", "gather", "[10,10,512,512], indices below 2",
        lambda: _scatter_add(2)),
    Row("masking, batch 64", "masking", "[64,196,768]",
        lambda: _masking((64, 196, 768)), {"published": 5, "expand": 4, "copy": 1.5}),
    Row("masking, batch 512", "masking", "[512,196,1024]",
        lambda: _masking((512, 196, 1024)), {"published": 6, "expand": 3.5}),
    Row("masking, one sample", "masking", "[1,196,768]",
        lambda: _masking((1, 196, 768)), {"published": 15, "expand": 10}),
    Row("mask only", "masking", "[4096,196]", _mask_only, {"published": 8}),
    Row("video", "masking", "[8,1568,768] at 0.9",
        lambda: _masking((8, 1568, 768), 0.9), {"published": 5, "expand": 4}),
    Row("audio", "masking", "[8,16384,64]",
        lambda: _masking((8, 16384, 64)), {"published": 5, "expand": 4}),
    Row("restore", "masking", "[64,49,512] to 196", _restore, {"published": 4}),
    Row("masked patches", "masking", "[64,3,224,224] float32, patches of 16",
        lambda: _masked_patches(False), {"torch": 5}),
    Row("masked patches, bytes", "masking", "the same from uint8, normalised",
        lambda: _masked_patches(True), {"best": 5}),
    Row("model, batch 64", "onnx", "[64,196,768], GatherElements",
        lambda: _model(64, 768), {"published": 1 / 0.8}),
    Row("model, batch 512", "onnx", "[512,196,1024], GatherElements",
        lambda: _model(512, 1024), {"published": 1 / 0.5}),
    Row("model nd, batch 64", "onnx", "[64,196,768], GatherND",
        lambda: _model(64, 768, gather="nd"), {"copy": 1.3}),
    Row("model nd, batch 512", "onnx", "[512,196,1024], GatherND",
        lambda: _model(512, 1024, gather="nd"), {"copy": 1.3}),
    Row("model seeded, batch 64", "onnx", "[64,196,768], GatherElements",
        lambda: _model(64, 768, "seed"), {"the model that takes noise": 1 / 1.25}),
    Row("model seeded, batch 512", "onnx", "[512,196,1024], GatherElements",
        lambda: _model(512, 1024, "seed"), {"the model that takes noise": 1 / 1.25}),
)  # fmt: skip


def run_rows(
    rows: Iterable[Row],
    rounds: int,
    copy_bandwidth: float,
    progress: Callable[[str], None] = lambda name: None,
) -> Iterator[dict[str, Any]]:
    """Time rows, one after the other, and give a result for each.

    Parameters
    ----------
    rows : iterable of Row
        What is timed.
    rounds : int
        Turns of each contestant.
    copy_bandwidth : float
        Of :func:`bandwidth`, for the floor.
    progress : callable
        Called with the name of each row before it is timed.

    Yields
    ------
    dict
        What the report is made of.

    Raises
    ------
    RuntimeError
        A contestant gave other bytes than nbgather.

    Examples
    --------
    >>> from nbgather.apps.bench import ROWS, run_rows
    >>> (result,) = run_rows([row for row in ROWS if row.name == "tiny, NumPy"], 1, 1e10)
    >>> sorted(result["seconds"])
    ['nbgather', 'numpy']
    """
    for row in rows:
        progress(row.name)
        contest = row.make()
        if contest is None:
            continue
        _compare(row.name, contest)
        yield _timed(row, contest, rounds, copy_bandwidth)
        del contest


def _timed(row: Row, contest: Contest, rounds: int, copy_bandwidth: float) -> dict[str, Any]:
    calls: dict[str, Call] = {"nbgather": contest.ours, **contest.peers}
    if contest.batch == 1 and contest.scales:
        calls["nbgather on 1 thread"] = _alone(contest.ours)
    if "copy" in row.targets and contest.copied is not None:
        calls[COPY] = contest.copied
    if contest.into is not None:
        calls["nbgather out="] = contest.into
        calls.update({f"{name} out=": call for name, call in contest.peers_into.items()})
    times = interleave(calls, rounds, batch=contest.batch)
    result: dict[str, Any] = {
        "name": row.name,
        "group": row.group,
        "about": row.about,
        "bytes": contest.nbytes,
        "floor": contest.nbytes / copy_bandwidth,
        "seconds": {name: t._asdict() for name, t in times.items()},
        "targets": row.targets,
    }
    return result


def _alone(call: Call) -> Call:
    def run() -> Any:
        with threads.limit_threads(1):
            return call()

    return run


def _compare(name: str, contest: Contest) -> None:
    """Refuse a contestant that does other work."""
    want = _bits(contest.ours())
    calls = contest.peers | {f"{n} out=": c for n, c in contest.peers_into.items()}
    if contest.into is not None:
        calls["nbgather out="] = contest.into
    for peer, call in calls.items():
        got = _bits(call())
        same = [a.shape == b.shape for a, b in zip(got, want, strict=True)]
        if not contest.random:
            same = [
                a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b))
                for a, b in zip(got, want, strict=True)
            ]
        if not all(same):
            raise RuntimeError(f"{name}: {peer} gives another result than nbgather")


def _bits(result: Any) -> list[np.ndarray]:
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(p.detach() if hasattr(p, "detach") else p) for p in parts]


def chosen(pattern: str | None) -> list[Row]:
    """Rows whose name or group matches a shell pattern; all without one."""
    if not pattern:
        return list(ROWS)
    return [
        row
        for row in ROWS
        if fnmatch.fnmatch(row.name, pattern)
        or fnmatch.fnmatch(row.group, pattern)
        or pattern in row.name
    ]
