"""Every call on the device against the CPU's kernels, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import nbgather
from gpu_check_parts import device
from gpu_check_parts.device import both, indices, random, same

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
DTYPES = (
    torch.bool, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.int64,
    torch.complex64, torch.complex128, torch.float8_e4m3fn,
)  # fmt: skip

CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Register a comparison; its docstring says what it shows."""
    CHECKS[function.__name__] = function
    return function


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
    on_gpu, i_gpu = x.to(device.GPU), index.to(device.GPU)
    for view in (
        lambda t: t.permute(2, 1, 0),
        lambda t: t.permute(2, 1, 0)[1:, 3:],
        lambda t: t[:1].permute(2, 1, 0).expand(20, 30, 40),
        lambda t: t.permute(2, 1, 0)[:, ::2],
    ):
        a, b = view(x), view(on_gpu)
        i, j = index[: a.shape[0]] % a.shape[1], i_gpu[: a.shape[0]] % a.shape[1]
        same(nbgather.gather(b, 1, j), nbgather.gather(a, 1, i))
    out = torch.zeros((20, 9, 80), device=device.GPU)[..., ::2]
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
        result = nbgather.random_masking(random((n, length, width), torch.float32), 0.75, seed=1)
        for token in (1.5, torch.arange(width).float(), torch.ones(1, 1, width)):
            both(nbgather.restore_tokens, result.x_masked, result.ids_restore, token)


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
    x = torch.randn(8, 50, 16, device=device.GPU, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    index = indices((8, 20, 16), 50).to(device.GPU)
    weight = torch.randn(8, 20, 16, device=device.GPU)
    torch.use_deterministic_algorithms(True)
    (nbgather.gather(x, 1, index) * weight).sum().backward()
    (torch.gather(y, 1, index) * weight).sum().backward()
    torch.use_deterministic_algorithms(False)
    assert torch.allclose(x.grad, y.grad, rtol=1e-5, atol=1e-5)  # sums in another order
    result = nbgather.random_masking(x, 0.75, seed=1)
    x.grad = None
    result.x_masked.sum().backward()
    assert torch.equal(x.grad[..., 0], 1 - result.mask)


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
        for target in ("cpu", device.GPU):
            try:
                call(x.to(target), bad.to(target))
            except IndexError as error:
                texts.append(str(error))
        assert len(texts) == 2, (name, texts)
        assert texts[0] == texts[1], (name, texts)
        both(call, x, torch.zeros_like(index))
        if device.GPU.type == "cuda":
            torch.cuda.synchronize()


@check
def streams() -> None:
    """A call goes to the caller's current stream."""
    side = torch.cuda.Stream()
    x, index = (
        random((64, 200, 256), torch.float32).to(device.GPU),
        indices((64, 50), 200).to(device.GPU),
    )
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
    x, index = torch.randn(8, 196, 64, device=device.GPU), indices((8, 49), 196).to(device.GPU)
    noise = torch.rand(8, 196, device=device.GPU)

    def work() -> tuple[torch.Tensor, ...]:
        result = nbgather.random_masking(x, 0.75, noise=noise)
        seeded = nbgather.random_masking(x, 0.75, seed=3)
        whole = nbgather.restore_tokens(result.x_masked, result.ids_restore, 0.0)
        return (*result, *seeded, whole, nbgather.gather_tokens(x, index, mode="clip"))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
        try:
            nbgather.gather_tokens(x, index)
        except ValueError as error:
            assert "CUDA graph" in str(error)  # noqa: PT017
        else:
            raise AssertionError("mode='raise' was captured")
    x.copy_(torch.randn_like(x))
    noise.copy_(torch.rand_like(noise))
    index.copy_(indices((8, 49), 97).to(device.GPU))
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(result, work(), strict=True):
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
        result = nbgather.gather_tokens(cupy.asarray(x.numpy()), cupy.asarray(index.numpy()))
        assert isinstance(result, cupy.ndarray)
        assert result.get().tobytes() == want.tobytes()
    from numba import cuda

    result = nbgather.gather_tokens(cuda.to_device(x.numpy()), cuda.to_device(index.numpy()))
    assert result.copy_to_host().tobytes() == want.tobytes()


@check
def more_than_32_bits() -> None:
    """2**32 elements and more, where there is memory for them."""
    count = (1 << 32) + 1234
    if torch.cuda.mem_get_info()[0] < 6 * count:
        print("   skipped: not enough memory", flush=True)
        return
    x = random((100,), torch.uint8).to(device.GPU)
    index = torch.randint(0, 100, (count,), dtype=torch.uint8, device=device.GPU)
    result = nbgather.gather(x, 0, index)
    for start in range(0, count, 1 << 28):
        part = slice(start, start + (1 << 28))
        assert torch.equal(result[part], x[index[part].long()])
    del result
    wide = index[: 1 << 32].view(2, 1 << 16, 1 << 15)
    flip = torch.tensor([1, 0], device=device.GPU)[:, None, None].expand(2, 1 << 16, 1 << 15)
    result = nbgather.gather(wide, 0, flip)
    assert torch.equal(result[0], wide[1])
    assert torch.equal(result[1], wide[0])
