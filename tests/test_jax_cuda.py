"""JAX's road to the CUDA backend, without a GPU: the CPU's arrays pass for the device's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from simulator import Driver, memory, simulated
from test_jax import same

import nbgather
import nbgather.jax
from nbgather import strategies
from nbgather.containers import jax_cuda, jax_places, registry
from nbgather.containers.jax_cuda import JaxCudaContainer
from nbgather.kernels.cuda import launch_masking
from nbgather.kernels.cuda.driver import Place

RNG = np.random.default_rng(0)
X = RNG.random((3, 16, 4), np.float32)
INDEX = RNG.integers(0, 16, (3, 5, 4)).astype(np.int32)
IDS = np.array([7, 5, 2**30], np.int32)


class Pretender(JaxCudaContainer):
    """The container of CUDA arrays, for those of the host."""

    #: Arrays that are said to be on the second GPU, by their addresses.
    elsewhere: set[int]

    def ordinal(self, array: Any) -> int:
        return int(array.unsafe_buffer_pointer() in self.elsewhere)

    def place(self, array: Any) -> tuple[Place, ...]:
        assert super().place(array) == (Place(self.ordinal(array), 0),)
        return (Place(self.ordinal(array), 7),)

    def address(self, array: Any) -> int:
        at = super().address(array)
        nbytes = array.size * array.dtype.itemsize
        if nbytes:
            content = (ctypes.c_uint8 * nbytes).from_address(at)
            memory.add(at, np.frombuffer(content, np.uint8))
            self.kept.append(array)
        return at


def _note(driver: Driver, place: Place) -> None:
    """Wait for a stream: how much had been launched by then."""
    assert place.stream == 7
    SYNCHRONIZED[:] = [len(driver.launches)]


#: How much had been launched when a stream was last waited for.
SYNCHRONIZED: list[int] = []


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    container: Any = registry.load(registry.MODULES["jax"])
    pretender = Pretender(container.run, container.on_gpu._namespace)
    pretender.elsewhere, pretender.kept = set(), []
    monkeypatch.setattr(container, "on_gpu", pretender)
    monkeypatch.setattr(jax_places, "platform_of", lambda device: "cuda")
    monkeypatch.setattr(Driver, "synchronize", _note)
    with simulated(32) as driver:
        yield driver
    memory.clear()


def pretender() -> Pretender:
    container: Any = registry.load(registry.MODULES["jax"])
    return container.on_gpu


def both(call: Callable[..., Any], driver: Driver, *operands: Any, launches: bool = True) -> None:
    """A call gives what it gives of NumPy's arrays, and leaves nothing to be waited for."""
    before = len(driver.launches)
    got = call(*map(jnp.asarray, operands))
    want = call(*operands)
    if launches:
        assert len(driver.launches) > before
        assert [len(driver.launches)] == SYNCHRONIZED
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        same(one, np.ascontiguousarray(other) if np.ndim(other) else other)
    assert type(got) is type(want) or not isinstance(want, tuple)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "uint8", "bool",
     "complex64"],
    ids=lambda d: np.dtype(d).name,
)  # fmt: skip
def test_the_gather_family(gpu: Driver, dtype: Any) -> None:
    x = (X * 9).astype(dtype)
    both(lambda x, i: nbgather.gather(x, 1, i), gpu, x, INDEX)
    for mode in ("clip", "wrap", "fill"):
        both(lambda x, i, m=mode: nbgather.gather(x, 1, i, mode=m), gpu, x, INDEX - 8)
    both(lambda x, i: nbgather.gather(x, 1, i, mode="fill", fill_value=1), gpu, x, INDEX - 8)
    both(lambda x, i: nbgather.take_along_axis(x, i, 1), gpu, x, INDEX[:, :, :1] - 16)
    both(nbgather.gather_tokens, gpu, x, INDEX[..., 0])
    both(lambda x, i: nbgather.scatter(x, 1, i, x[:, :5]), gpu, x, INDEX)
    both(lambda x, i: nbgather.scatter(x, 1, i, 1), gpu, x, INDEX)
    if np.dtype(dtype).itemsize > 1 or dtype == "uint8":
        both(lambda x, i: nbgather.scatter_add(x, 1, i, x[:, :5]), gpu, x, INDEX)


def test_masking_and_restoring(gpu: Driver) -> None:
    noise = RNG.random((3, 16), np.float32)
    both(lambda x: nbgather.random_masking(x, 0.6, seed=3), gpu, X)
    both(lambda x, i: nbgather.random_masking(x, seed=-1, sample_ids=i, epoch=2), gpu, X, IDS)
    both(lambda x, n: nbgather.random_masking(x, noise=n), gpu, X, noise)
    both(lambda x, n: nbgather.random_masking(x, noise=n), gpu, X, noise.astype(np.float16))
    both(lambda x: nbgather.random_masking(x, seed=3, num_keep=[1, 5, 0]), gpu, X)
    both(lambda n: nbgather.rank_tokens(n, 4), gpu, noise)
    both(lambda n: nbgather.rank_tokens(n, 4), gpu, noise.astype(ml_dtypes.bfloat16))
    both(lambda i: nbgather.token_noise(3, i, 9, epoch=1), gpu, IDS)
    assert nbgather.random_masking(jnp.asarray(X)).mask.shape == (3, 16)  # with a seed drawn
    made = nbgather.random_masking(X, 0.5, seed=3)
    restore = made.ids_restore.astype(np.int32)
    token = np.arange(4, dtype=np.float32)
    for given in (token, token[None, None], token[:1]):
        both(nbgather.restore_tokens, gpu, made.x_masked, restore, given)
    both(lambda v, i: nbgather.restore_tokens(v, i, -0.0), gpu, made.x_masked, restore)
    half = made.x_masked.astype(ml_dtypes.bfloat16)
    both(lambda v, i: nbgather.restore_tokens(v, i, 0.5), gpu, half, restore)
    noise = nbgather.jax.seeded_noise(3, jnp.asarray(IDS), 9)
    same(noise, nbgather.token_noise(3, IDS, 9))


def test_patches_and_strategies(gpu: Driver) -> None:
    images = RNG.integers(0, 256, (2, 3, 8, 12)).astype(np.uint8)
    normal = {"scale": 1 / 255, "mean": (0.1, 0.2, 0.3), "std": 0.5}
    both(lambda i: nbgather.masked_patchify(i, 4, 0.5, seed=1), gpu, images)
    both(lambda i: nbgather.masked_patchify(i, 4, 0.5, seed=1, **normal), gpu, images)
    both(lambda i: nbgather.patchify(i, 4), gpu, images, launches=False)
    patches = np.array(nbgather.patchify(images, 4))
    both(lambda p: nbgather.unpatchify(p, 4, (8, 12)), gpu, patches, launches=False)
    for name in strategies.__all__:
        score = getattr(strategies, name)
        grid = (2, 4, 4) if name == "tube" else (4, 8)
        both(lambda i, f=score, g=grid: f(3, i, g, epoch=1), gpu, IDS, launches=False)


def test_lists_say_where_and_no_number_of_dimensions_is_special(gpu: Driver) -> None:
    both(lambda x: nbgather.gather(x, 0, [2, 1]), gpu, X[0, :, 0].copy())
    both(lambda x, i: nbgather.gather(x, 0, i), gpu, np.array(3.0, np.float32), np.array(0))
    both(lambda x, i: nbgather.gather(x, 1, i), gpu, X, INDEX[:, :0], launches=False)


def test_64_bits_where_jax_has_none(gpu: Driver) -> None:
    """Results of int64 are int32, and nothing is left behind in the process."""
    assert not jax.config.jax_enable_x64
    made = nbgather.random_masking(jnp.asarray(X), seed=0)
    assert made.ids_restore.dtype == jnp.int32
    assert not jax.config.jax_enable_x64
    with jax_cuda._enable_x64(True):
        x = jnp.asarray(X.astype(np.complex128))
        index = jnp.asarray(INDEX.astype(np.int64))
        same(nbgather.gather(x, 1, index), nbgather.gather(X.astype(np.complex128), 1, INDEX))
        want = nbgather.scatter(X.astype(np.complex128), 1, INDEX, 2 + 1j)
        same(nbgather.scatter(x, 1, index, 2 + 1j), want)
        assert nbgather.random_masking(x, seed=0).ids_restore.dtype == jnp.int64


def test_a_layout_of_its_own(gpu: Driver) -> None:
    """Dimensions in another order in memory, as a compiled function may give them."""
    layout = pytest.importorskip("jax.experimental.layout", reason="this JAX has no layouts")
    if not hasattr(layout, "Format"):
        pytest.skip("this JAX names layouts otherwise")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    form = layout.Format(layout.Layout(major_to_minor=(2, 0, 1)), sharding)
    x = jax.device_put(jnp.asarray(X), form)
    assert jax_cuda._strides(x, 4) == (64, 4, 192)
    same(nbgather.gather(x, 1, jnp.asarray(INDEX)), nbgather.gather(X, 1, INDEX))
    same(nbgather.gather_tokens(x, jnp.asarray(INDEX[..., 0])),
         nbgather.gather_tokens(X, INDEX[..., 0]))  # fmt: skip


def test_operands_are_waited_for(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on a stream that XLA's does not wait for, nor it for XLA's."""
    waited: list[int] = []
    wait = jax.block_until_ready

    def noting(array: Any) -> Any:
        waited.append(array.unsafe_buffer_pointer())
        return wait(array)

    monkeypatch.setattr(jax, "block_until_ready", noting)
    x, index = jnp.asarray(X), jnp.asarray(INDEX)
    launched: list[set[int]] = []
    launch = Driver.launch

    def spying(self: Driver, key: Any, build: Any, grid: Any, block: Any, place: Any,
               addresses: Any, numbers: Any, *shared: Any) -> None:  # fmt: skip
        launched.append(set(waited))
        launch(self, key, build, grid, block, place, addresses, numbers, *shared)

    monkeypatch.setattr(Driver, "launch", spying)
    result = nbgather.gather(x, 1, index)
    at = {a.unsafe_buffer_pointer() for a in (x, index, result)}
    assert at <= launched[-1]


def test_all_that_is_made_is_on_the_arrays_gpu(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX's default device is another one, on a machine with two."""
    places: list[Any] = []

    def spying(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            places.append(options.get("device"))
            return make(*args, **options)

        return made

    x, plain = jnp.asarray(X), nbgather.random_masking(X, seed=1, num_keep=[2, 9, 0])
    for name in ("arange", "asarray", "empty", "full", "zeros"):
        monkeypatch.setattr(jnp, name, spying(getattr(jnp, name)))
    monkeypatch.setattr(
        launch_masking, "MAX_FUSED_TOKENS", 8
    )  # what is longer is made of its parts
    masked = nbgather.random_masking(x, seed=1, num_keep=[2, 9, 0])
    for got, want in zip(masked, plain, strict=True):
        same(got, want)
    made = (masked.x_masked, masked.ids_restore, 0.5)
    want = nbgather.restore_tokens(plain.x_masked, plain.ids_restore, 0.5, valid=plain.valid)
    same(nbgather.restore_tokens(*made, valid=masked.valid), want)
    (device,) = x.devices()
    assert len(places) > 5
    assert set(places) == {device}


def test_a_bad_index_is_named(gpu: Driver) -> None:
    x, index = jnp.zeros((2, 3)), jnp.array([[0, 2], [1, 7]])
    for call in (
        lambda: nbgather.gather(x, 1, index),
        lambda: nbgather.scatter(x, 1, index, jnp.zeros((2, 2))),
        lambda: nbgather.scatter_add(x, 1, index, jnp.zeros((2, 2))),
    ):
        with pytest.raises(IndexError) as raised:
            call()
        assert str(raised.value) == "index 7 at (1, 1) is out of bounds for dimension 1 with size 3"
        assert [len(gpu.launches)] == SYNCHRONIZED


TRACED = "was traced by JAX for a GPU: kernels are compiled into programs for the CPU alone; call"


def test_refusals(gpu: Driver) -> None:
    x, index, far = jnp.asarray(X), jnp.asarray(INDEX), jnp.asarray(INDEX + 0)
    pretender().elsewhere.add(far.unsafe_buffer_pointer())
    refusals: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
        (lambda: nbgather.gather(x, 1, INDEX), TypeError,
         "input is on cuda:0 and index a NumPy array on the CPU: both must be on one device"),
        (lambda: nbgather.gather(X, 1, index), TypeError,
         "input is a NumPy array and index a JAX one: both must be of one library"),
        (lambda: nbgather.gather(x, 1, far), TypeError,
         "input is on cuda:0 and index on cuda:1: both must be on one device"),
        (lambda: nbgather.scatter(x, 1, index, X), TypeError,
         "input is a JAX array and src a NumPy one: both must be of one library"),
        (lambda: nbgather.gather(x, 1, index, out=x), ValueError,
         "out= was given for JAX arrays: they cannot be written to"),
        (lambda: nbgather.gather(x, 1, index, backend="cpu"), ValueError,
         "backend 'cpu' cannot serve arrays on cuda:0"),
        (lambda: nbgather.infer_gather(x, x), TypeError,
         "input is on cuda:0: infer_gather looks at the host"),
        (lambda: nbgather.gather(x, 1, index * 1.0), TypeError, "index has dtype float32"),
        (lambda: nbgather.gather(x.astype("int4"), 1, index), TypeError, "of dtype int4"),
        (lambda: nbgather.gather(x, 1, index, mode="fill", fill_value=x[0, 0, 0]), TypeError,
         "fill_value is on cuda:0: a scalar on the host is needed"),
        (lambda: nbgather.restore_tokens(x, index[..., 0], jnp.zeros(3)), ValueError,
         "mask_token has shape (3,)"),
        # What is traced: by grad, by vmap, and beside an array that is not.
        (lambda: jax.grad(lambda a: nbgather.gather(a, 1, INDEX).sum())(x), NotImplementedError,
         f"Gather {TRACED}"),
        (lambda: jax.vmap(lambda a, i: nbgather.gather(a, 0, i))(x, index), NotImplementedError,
         f"Gather {TRACED}"),
        (lambda: jax.vmap(lambda a: nbgather.gather_tokens(a, index[..., 0]))(x[None]),
         NotImplementedError, f"an operand {TRACED}"),
        (lambda: jax.vmap(lambda i: nbgather.gather_tokens(x, i))(index.transpose(2, 0, 1)),
         NotImplementedError, f"an operand {TRACED}"),
        (lambda: jax.jit(lambda a: nbgather.gather(a, 1, index))(x), NotImplementedError,
         f"an operand {TRACED}"),
        (lambda: nbgather.jax.seeded_noise(jnp.int32(1), jnp.asarray(IDS), 9),
         NotImplementedError, f"SeededNoise {TRACED}"),
    )  # fmt: skip
    for call, error, text in refusals:
        with pytest.raises(error) as raised:
            call()
        assert text in str(raised.value)


class _Client:
    platform_version = "rocm 60300"


class _Device:
    """A GPU as JAX tells of it."""

    platform, client = "gpu", _Client()

    def __init__(self, version: str) -> None:
        self.client = type("Client", (), {"platform_version": version})()

    def __str__(self) -> str:
        return "gpu:0"


class _Array:
    """What is asked of an array to find where it lies."""

    dtype = np.dtype(np.float32)

    def __init__(self, *devices: Any, kind: str = "device") -> None:
        self.sharding = type("Sharding", (), {"memory_kind": kind})()
        self._devices = set(devices)

    def devices(self) -> set[Any]:
        return self._devices


def test_only_the_memory_of_one_cuda_gpu_is_served() -> None:
    nvidia, amd = _Device("PJRT C API\ncuda 12090"), _Device("PJRT C API\nrocm 60300")
    tpu = _Device("TPU v5")
    tpu.platform = "tpu"
    assert [jax_places.platform_of(d) for d in (nvidia, amd, tpu, jax.devices("cpu")[0])] == [
        "cuda", "rocm", "tpu", "cpu"
    ]  # fmt: skip
    container: Any = registry.load(registry.MODULES["jax"])
    assert container.locate(_Array(nvidia), "x") is container.on_gpu
    needed = "one on the CPU or on one CUDA GPU is needed, as jax.device_put(x, jax.devices('cpu')"
    for places in ((amd,), (tpu,), (nvidia, _Device("cuda 1"))):
        with pytest.raises(TypeError) as raised:
            container.locate(_Array(*places), "x")
        assert needed in str(raised.value)
    with pytest.raises(TypeError, match="x is a JAX array in memory of the kind pinned_host"):
        container.locate(_Array(nvidia, kind="pinned_host"), "x")
