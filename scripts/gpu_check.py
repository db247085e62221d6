"""Everything that only a GPU can show, in one command: ``python scripts/gpu_check.py``.

Needs Python, torch with CUDA, numba and numba-cuda, and this repository; no network. It compares
every call on the device with the CPU's kernels, bit for bit, and times it beside torch. The results
go to ``scripts/gpu_DEVICE.json``. Exit status 1 if a comparison failed or a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import nbgather  # noqa: E402
from nbgather import files  # noqa: E402

GPU = torch.device("cuda")
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
DTYPES = (
    torch.bool, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.int64,
    torch.complex64, torch.complex128, torch.float8_e4m3fn,
)  # fmt: skip
Call = Callable[[int], Any]

CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Register a comparison; its docstring says what it shows."""
    CHECKS[function.__name__] = function
    return function


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random bits on the CPU; bools stay bools."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty((), dtype=dtype).element_size()
    data = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape)


def same(got: Any, want: Any) -> None:
    """Assert that what came on the device has the bits of what came on the CPU."""
    if isinstance(want, tuple):
        assert type(got) is type(want)
        for a, b in zip(got, want, strict=True):
            same(a, b)
        return
    assert got.device.type == GPU.type, got.device
    assert got.dtype == want.dtype, (got.dtype, want.dtype)
    assert got.shape == want.shape, (got.shape, want.shape)
    a, b = got.cpu().contiguous(), want.contiguous()
    if a.numel():
        assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def both(call: Callable[..., Any], *arrays: Any, **options: Any) -> None:
    """The same call on the device and on the CPU."""
    there = [a.to(GPU) if isinstance(a, torch.Tensor) else a for a in arrays]
    given = {k: v.to(GPU) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    same(call(*there, **given), call(*arrays, **options))


def indices(shape: tuple[int, ...], size: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, min(size, 127), shape, generator=generator).to(dtype)


SHAPES = ((7,), (5, 33), (4, 3, 5), (3, 40, 70), (2, 3, 4, 129), (64, 50, 96), (300, 500))


@check
def gathers() -> None:
    """Gather over shapes, dims, dtypes and index dtypes; elements and rows."""
    for shape in SHAPES:
        for dim, size in enumerate(shape):
            part = (*shape[:dim], 6, *shape[dim + 1 :])
            for dtype in DTYPES:
                x = random(shape, dtype)
                both(nbgather.gather, x, dim, indices(part, size))
                row = indices((*part[: dim + 1], *[1] * (len(shape) - dim - 1)), size)
                both(nbgather.gather, x, dim, row.expand(part))
    x = random((3, 40, 70), torch.float32)
    for dtype in INTEGERS:
        both(nbgather.gather, x, 1, indices((3, 9, 70), 40, dtype))
        both(nbgather.take_along_axis, x, indices((3, 9, 1), 40, dtype), 1)
        both(nbgather.gather_tokens, x, indices((3, 9), 40, dtype))


@check
def strides() -> None:
    """Views: transposed, sliced, expanded, offset."""
    x = random((40, 30, 20), torch.float32)
    index = indices((20, 9, 40), 30)
    on_gpu, i_gpu = x.to(GPU), index.to(GPU)
    for view in (
        lambda t: t.permute(2, 1, 0),
        lambda t: t.permute(2, 1, 0)[1:, 3:],
        lambda t: t[:1].permute(2, 1, 0).expand(20, 30, 40),
        lambda t: t.permute(2, 1, 0)[:, ::2],
    ):
        a, b = view(x), view(on_gpu)
        i, j = index[: a.shape[0]] % a.shape[1], i_gpu[: a.shape[0]] % a.shape[1]
        same(nbgather.gather(b, 1, j), nbgather.gather(a, 1, i))
    out = torch.zeros((20, 9, 80), device=GPU)[..., ::2]
    view = on_gpu.permute(2, 1, 0)
    assert nbgather.gather(view, 1, i_gpu % 30, out=out) is out
    same(out.contiguous(), nbgather.gather(x.permute(2, 1, 0), 1, index % 30))


@check
def modes() -> None:
    """clip, wrap and fill with values far outside."""
    values = torch.tensor([-(2**63), 2**63 - 1, -1, 0, 39, 40, 41, -41, 1000])
    index = values[indices((3, 9, 70), 9)]
    x = random((3, 40, 70), torch.float32)
    for mode in ("clip", "wrap", "fill"):
        both(nbgather.gather, x, 1, index, mode=mode, fill_value=2.5)
        both(nbgather.take_along_axis, x, index[..., :1], 1, mode=mode, fill_value=-3)
        both(nbgather.gather_tokens, x, index[..., 0], mode=mode, fill_value=7)


@check
def scatters() -> None:
    """scatter and scatter_add, the same bits as the CPU's whatever the number of duplicates."""
    for shape, dim in (
        ((64, 300), 1),
        ((300, 64), 0),
        ((5000, 40), 1),
        ((3, 20_000), 1),
        ((9,), 0),
    ):
        for few in (2, 500):
            index = indices(shape, min(few, shape[dim]))
            for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.complex64):
                x, src = (torch.randn(shape).mul(50).abs().to(dtype) for _ in "ab")
                both(nbgather.scatter, x, dim, index, src)
                both(nbgather.scatter_add, x, dim, index, src)
            half = torch.randn(shape).half()
            both(nbgather.scatter_add, half, dim, index, half)


@check
def maskings() -> None:
    """Noise, ranks, masks and tokens by seed and by noise, short and long, at once and by tiles."""
    for n, length, width in ((3, 16, 4), (64, 196, 96), (2, 2048, 8), (2, 2049, 8), (2, 50_000, 3)):
        ids = torch.randint(-(2**63), 2**63 - 1, (n,))
        both(lambda i, length=length: nbgather.token_noise(2**63 + 5, i, length, epoch=9), ids)
        noise = torch.randint(0, 50, (n, length)).float() / 7
        noise[0, :5] = torch.tensor([float("nan"), -0.0, 0.0, float("inf"), float("-inf")])
        for dtype in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
            both(nbgather.rank_tokens, noise.to(dtype), length // 4)
        for dtype in (torch.float32, torch.bfloat16, torch.uint8, torch.complex128):
            x = random((n, length, width), dtype)
            both(nbgather.random_masking, x, 0.75, seed=-3, sample_ids=ids, epoch=2)
            both(nbgather.random_masking, x, 0.6, noise=noise)
            few = [(7 * k) % (length + 1) for k in range(n)]
            both(nbgather.random_masking, x, seed=1, num_keep=few)
            both(nbgather.random_masking, x.transpose(0, 1)[:, :n], 0.5, seed=8)
        made = nbgather.random_masking(random((n, length, width), torch.float32), 0.75, seed=1)
        for token in (1.5, torch.arange(width).float(), torch.ones(1, 1, width)):
            both(nbgather.restore_tokens, made.x_masked, made.ids_restore, token)


@check
def patches() -> None:
    """Kept patches of images and video, copied and normalised."""
    affine = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for shape, size in (((4, 3, 64, 96), 16), ((2, 3, 4, 32, 32), (2, 8, 8))):
        for dtype in (torch.uint8, torch.float32, torch.float64):
            images = random(shape, dtype)
            both(lambda x, p=size: nbgather.masked_patchify(x, p, 0.75, seed=4), images)
        for dtype in (torch.uint8, torch.float32):
            images = torch.randint(0, 256, shape).to(dtype)
            both(lambda x, p=size: nbgather.masked_patchify(x, p, seed=4, **affine), images)


@check
def gradients() -> None:
    """Gradients to the input, on the device, equal torch's."""
    x = torch.randn(8, 50, 16, device=GPU, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    index = indices((8, 20, 16), 50).to(GPU)
    weight = torch.randn(8, 20, 16, device=GPU)
    torch.use_deterministic_algorithms(True)
    (nbgather.gather(x, 1, index) * weight).sum().backward()
    (torch.gather(y, 1, index) * weight).sum().backward()
    torch.use_deterministic_algorithms(False)
    assert torch.allclose(x.grad, y.grad, rtol=1e-5, atol=1e-5)  # sums in another order
    made = nbgather.random_masking(x, 0.75, seed=1)
    x.grad = None
    made.x_masked.sum().backward()
    assert torch.equal(x.grad[..., 0], 1 - made.mask)


@check
def bad_indices() -> None:
    """The CPU's IndexError, and the context lives on."""
    x, index = torch.zeros(3, 4), torch.zeros(3, 5, dtype=torch.int64)
    index[1, 2], index[2, 0] = 4, -1
    calls: dict[str, Callable[..., Any]] = {
        "gather": lambda a, i: nbgather.gather(a, 1, i),
        "along": lambda a, i: nbgather.take_along_axis(a, i, 1),
        "tokens": lambda a, i: nbgather.gather_tokens(a[..., None].expand(3, 4, 64), i),
        "scatter": lambda a, i: nbgather.scatter_add(a, 1, i, torch.zeros(3, 5, device=a.device)),
        "restore": lambda a, i: nbgather.restore_tokens(a[..., None], i, 0.0),
    }
    for name, call in calls.items():
        bad = index.clone()
        if name == "restore":
            bad[1, 2] = 5
        texts = []
        for device in ("cpu", GPU):
            try:
                call(x.to(device), bad.to(device))
            except IndexError as error:
                texts.append(str(error))
        assert len(texts) == 2, (name, texts)
        assert texts[0] == texts[1], (name, texts)
        both(call, x, torch.zeros_like(index))
        if GPU.type == "cuda":
            torch.cuda.synchronize()


@check
def streams() -> None:
    """A call goes to the caller's current stream."""
    side = torch.cuda.Stream()
    x, index = random((64, 200, 256), torch.float32).to(GPU), indices((64, 50), 200).to(GPU)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        late = torch.zeros_like(x)
        late += x
        got = nbgather.gather_tokens(late, index, mode="clip")
        done = side.record_event()
    assert not done.query(), "the call waited, or went to another stream"
    side.synchronize()
    same(got, nbgather.gather_tokens(x.cpu(), index.cpu()))


@check
def graphs() -> None:
    """Calls that do not wait can be captured into a CUDA graph, and replayed on other values."""
    x, index = torch.randn(8, 196, 64, device=GPU), indices((8, 49), 196).to(GPU)
    noise = torch.rand(8, 196, device=GPU)

    def work() -> tuple[torch.Tensor, ...]:
        made = nbgather.random_masking(x, 0.75, noise=noise)
        seeded = nbgather.random_masking(x, 0.75, seed=3)
        whole = nbgather.restore_tokens(made.x_masked, made.ids_restore, 0.0)
        return (*made, *seeded, whole, nbgather.gather_tokens(x, index, mode="clip"))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = work()
        try:
            nbgather.gather_tokens(x, index)
        except ValueError as error:
            assert "CUDA graph" in str(error)  # noqa: PT017
        else:
            raise AssertionError("mode='raise' was captured")
    x.copy_(torch.randn_like(x))
    noise.copy_(torch.rand_like(noise))
    index.copy_(indices((8, 49), 97).to(GPU))
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(made, work(), strict=True):
        assert torch.equal(got, want)


@check
def other_libraries() -> None:
    """CuPy and numba arrays in and out, where they are installed."""
    x, index = random((5, 40, 8), torch.float32), indices((5, 9), 40)
    want = nbgather.gather_tokens(x, index).numpy()
    try:
        import cupy
    except ImportError:
        print("   cupy is not installed", flush=True)
    else:
        made = nbgather.gather_tokens(cupy.asarray(x.numpy()), cupy.asarray(index.numpy()))
        assert isinstance(made, cupy.ndarray)
        assert made.get().tobytes() == want.tobytes()
    from numba import cuda

    made = nbgather.gather_tokens(cuda.to_device(x.numpy()), cuda.to_device(index.numpy()))
    assert made.copy_to_host().tobytes() == want.tobytes()


@check
def more_than_32_bits() -> None:
    """2**32 elements and more, where there is memory for them."""
    count = (1 << 32) + 1234
    if torch.cuda.mem_get_info()[0] < 6 * count:
        print("   skipped: not enough memory", flush=True)
        return
    x = random((100,), torch.uint8).to(GPU)
    index = torch.randint(0, 100, (count,), dtype=torch.uint8, device=GPU)
    made = nbgather.gather(x, 0, index)
    for start in range(0, count, 1 << 28):
        part = slice(start, start + (1 << 28))
        assert torch.equal(made[part], x[index[part].long()])
    del made
    wide = index[: 1 << 32].view(2, 1 << 16, 1 << 15)
    flip = torch.tensor([1, 0], device=GPU)[:, None, None].expand(2, 1 << 16, 1 << 15)
    made = nbgather.gather(wide, 0, flip)
    assert torch.equal(made[0], wide[1])
    assert torch.equal(made[1], wide[0])


# Times


def timed(calls: dict[str, Call], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds on the device, by events, each call in its turn."""
    for call in calls.values():
        for k in range(3):
            call(k)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
            torch.cuda.synchronize()
            torch.cuda._sleep(200_000)  # so that the launch does not wait for Python
            begin.record()
            result = calls[name](turn)
            end.record()
            torch.cuda.synchronize()
            taken[name].append(begin.elapsed_time(end) * 1e3)
            del result
    return {name: {"min": min(t), "median": statistics.median(t)} for name, t in taken.items()}


def rotated(make: Callable[[int], torch.Tensor], nbytes: int) -> list[torch.Tensor]:
    """As many inputs as it takes that the cache holds none of the next."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return [make(k) for k in range(max(2, min(64, 3 * l2 // max(nbytes, 1) + 1)))]


def recipe(x: torch.Tensor, keep: int) -> tuple[torch.Tensor, ...]:
    """The paper's random_masking, its index expanded."""
    n, length, width = x.shape
    ids_shuffle = torch.argsort(torch.rand(n, length, device=x.device), dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    wide = ids_shuffle[:, :keep].unsqueeze(-1).expand(-1, -1, width)
    mask = torch.ones([n, length], device=x.device)
    mask[:, :keep] = 0
    return torch.gather(x, 1, wide), torch.gather(mask, 1, ids_restore), ids_restore


def gather_row(
    shape: tuple[int, ...], dim: int, index_shape: tuple[int, ...], dtype: torch.dtype,
    spread: tuple[int, ...] | None = None,
) -> tuple[dict[str, Call], int]:  # fmt: skip
    item = torch.empty((), dtype=dtype).element_size()
    xs = rotated(lambda k: random(shape, dtype, k).to(GPU), int(np.prod(shape)) * item)
    index = torch.randint(0, shape[dim], index_shape, device=GPU)
    wide = index if spread is None else index.expand(spread)
    moved = wide.numel() * item * 2 + index.numel() * 8
    calls: dict[str, Call] = {
        "nbgather": lambda k: nbgather.gather(xs[k % len(xs)], dim, wide, mode="clip"),
        "torch": lambda k: torch.gather(xs[k % len(xs)], dim, wide),
    }
    return calls, moved


def masking_row(n: int) -> tuple[dict[str, Call], int]:
    xs = rotated(lambda k: torch.randn(n, 196, 768, device=GPU), n * 196 * 768 * 4)
    compiled = torch.compile(recipe)
    calls: dict[str, Call] = {
        "nbgather": lambda k: nbgather.random_masking(xs[k % len(xs)], 0.75, seed=k),
        "torch": lambda k: recipe(xs[k % len(xs)], 49),
        "torch.compile": lambda k: compiled(xs[k % len(xs)], 49),
    }
    return calls, n * (49 * 768 * 8 + 196 * 12)


def scatter_row(values: int) -> tuple[dict[str, Call], int]:
    shape = (10, 10, 512, 512)
    xs = rotated(lambda k: torch.zeros(shape, device=GPU), 4 * 512 * 512 * 100)
    index = torch.randint(0, values, shape, device=GPU)
    src = torch.randn(shape, device=GPU)
    calls: dict[str, Call] = {
        "nbgather": lambda k: nbgather.scatter_add(xs[k % len(xs)], 3, index, src),
        "torch": lambda k: torch.scatter_add(xs[k % len(xs)], 3, index, src),
    }
    return calls, index.numel() * 20


def restore_row() -> tuple[dict[str, Call], int]:
    made = nbgather.random_masking(torch.randn(64, 196, 512, device=GPU), 0.75, seed=0)
    token = torch.zeros(512, device=GPU)
    visible, ids = made.x_masked, made.ids_restore

    def published(k: int) -> torch.Tensor:
        joined = torch.cat([visible, token.view(1, 1, -1).repeat(64, 147, 1)], dim=1)
        return torch.gather(joined, 1, ids.unsqueeze(-1).repeat(1, 1, 512))

    ours = lambda k: nbgather.restore_tokens(visible, ids, token)  # noqa: E731
    return {"nbgather": ours, "torch": published}, 64 * (196 + 49) * 512 * 4


F = torch.float32
ROWS: dict[str, tuple[Callable[[], tuple[dict[str, Call], int]], dict[str, float]]] = {
    "MAE rows, repeated": (lambda: gather_row((64, 196, 768), 1, (64, 49, 768), F), {"torch": 1}),
    "MAE rows, expanded": (
        lambda: gather_row((512, 196, 768), 1, (512, 49, 1), F, (512, 49, 768)),
        {"torch": 1, "copy": 0.85},
    ),
    "graph rows": (
        lambda: gather_row((1_000_000, 128), 0, (2_000_000, 1), F, (2_000_000, 128)),
        {"torch": 1, "copy": 0.85},
    ),
    "rows of 256 bytes": (
        lambda: gather_row((4_000_000, 64), 0, (4_000_000, 1), F, (4_000_000, 64)),
        {"torch": 1, "copy": 0.85},
    ),
    "square, dim 1": (lambda: gather_row((8192, 8192), 1, (8192, 8192), F), {"torch": 1}),
    "square, dim 0": (lambda: gather_row((8192, 8192), 0, (8192, 8192), F), {"torch": 1}),
    "DeBERTa": (
        lambda: gather_row((10, 10, 512, 512), 3, (10, 10, 512, 512), F), {"torch": 1},
    ),
    "float16, dim 1": (
        lambda: gather_row((8192, 8192), 1, (8192, 8192), torch.float16), {"torch": 1},
    ),
    "log-prob pick": (lambda: gather_row((4096, 50257), 1, (4096, 1), F), {"torch": 1}),
    "scatter_add of 2": (lambda: scatter_row(2), {"torch": 3}),
    "scatter_add of 512": (lambda: scatter_row(512), {}),
    "restore": (restore_row, {"torch": 1}),
    **{
        f"masking, batch {n}": (lambda n=n: masking_row(n), {"torch": 5, "torch.compile": 1.5})
        for n in (64, 512, 4096)
    },
}  # fmt: skip


def copy_bandwidth() -> float:
    """Bytes per second that a copy on the device moves, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=GPU)
    target = torch.empty_like(source)
    taken = timed({"copy": lambda k: target.copy_(source)}, 11)["copy"]["min"]
    return 2 * source.numel() / (taken * 1e-6)


def launch_cost() -> dict[str, float]:
    """Microseconds of Python for a call that does not wait, the device kept out of it."""
    x, index = torch.randn(2, 16, 32, device=GPU), indices((2, 4), 16).to(GPU)
    wide = index[..., None].expand(2, 4, 32)
    calls: dict[str, Callable[[], Any]] = {
        "gather": lambda: nbgather.gather(x, 1, wide, mode="clip"),
        "gather_tokens": lambda: nbgather.gather_tokens(x, index, mode="clip"),
        "random_masking": lambda: nbgather.random_masking(x, 0.75, seed=1),
        "torch.gather": lambda: torch.gather(x, 1, wide),
    }
    made = {}
    for name, call in calls.items():
        times = []
        for _ in range(30):
            call()
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(50):
                call()
            times.append((time.perf_counter() - begun) / 50 * 1e6)
        made[name] = min(times)
    return made


def measured(bandwidth: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Each row's times, ratios, and whether its targets are reached."""
    for name, (make, targets) in ROWS.items():
        calls, moved = make()
        times = timed(calls, rounds)
        ours = times["nbgather"]["min"]
        got = {peer: times[peer]["min"] / ours for peer in times if peer != "nbgather"}
        got["copy"] = moved / (ours * 1e-6) / bandwidth
        missed = {t: got[t] for t, wanted in targets.items() if got[t] < wanted}
        shown = ", ".join(f"{peer} {ratio:.2f}" for peer, ratio in got.items())
        print(f"{name:22} {ours:10.1f} µs  {shown}" + (f"  MISSED {missed}" if missed else ""))
        sys.stdout.flush()
        yield {"name": name, "microseconds": times, "ratios": got, "targets": targets,
               "reached": not missed}  # fmt: skip
        torch.cuda.empty_cache()


def facts() -> dict[str, Any]:
    """What was run, and on what."""
    import numba
    import numba_cuda

    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "compute capability": f"{device.major}.{device.minor}",
        "memory GiB": round(device.total_memory / 2**30, 1),
        "multiprocessors": device.multi_processor_count,
        "L2 MiB": round(device.L2_cache_size / 2**20, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch CUDA": torch.version.cuda,
        "numba": numba.__version__,
        "numba-cuda": numba_cuda.__version__,
        "numpy": np.__version__,
        "nbgather": nbgather.__version__,
    }


def main() -> int:
    """Run the checks and the bench; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--only", help="only checks whose name holds this, and no bench")
    parser.add_argument("--no-bench", action="store_true", help="compare, time nothing")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contestant")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device")
    reason = nbgather.backends.available()["cuda"]
    if reason is not None:
        raise SystemExit(f"the cuda backend is not available: {reason}")
    results: dict[str, Any] = {"facts": facts(), "checks": {}, "rows": []}
    for key, value in results["facts"].items():
        print(f"{key}: {value}")
    failed = 0
    for name, function in CHECKS.items():
        if options.only and options.only not in name:
            continue
        begun = time.perf_counter()
        try:
            function()
            outcome = "passed"
        except Exception:  # each check is told of, whatever became of the one before
            outcome = traceback.format_exc()
            failed += 1
        seconds = time.perf_counter() - begun
        results["checks"][name] = {"outcome": outcome, "seconds": seconds}
        print(f"{name:22} {seconds:6.1f} s  {outcome}", flush=True)
    if not (options.no_bench or options.only):
        bandwidth = copy_bandwidth()
        results["copy bytes per second"] = bandwidth
        print(f"a copy on the device moves {bandwidth / 1e12:.2f} TB/s")
        results["launch microseconds"] = launch_cost()
        print("launch, µs:", {k: round(v, 1) for k, v in results["launch microseconds"].items()})
        results["rows"] = list(measured(bandwidth, options.rounds))
        failed += any(not row["reached"] for row in results["rows"])
        failed += results["launch microseconds"]["gather"] > 15
    name = results["facts"]["device"].replace(" ", "_")
    path = options.json or ROOT / "scripts" / f"gpu_{name}.json"
    files.write(path, (json.dumps(results, indent=1) + os.linesep).encode())
    print(f"wrote {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
