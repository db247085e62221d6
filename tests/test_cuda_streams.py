"""Streams and devices: who waits for whom, and where a result is made."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cases import same
from numba import cuda as numba_cuda
from simulator import DeviceArray, Driver, simulated, to_device

import nbgather.cuda
from nbgather.containers import cuda_interface
from nbgather.containers.cuda_interface import NO_STREAM
from nbgather.engine import device_errors
from nbgather.kernels.cuda import backend
from nbgather.kernels.cuda.contexts import Place

OWN, OTHER = 7, 8


@pytest.fixture
def gpu() -> Iterator[Driver]:
    with simulated(32) as driver:
        yield driver


def on(stream: int, array: np.ndarray) -> DeviceArray:
    """A copy on the simulated GPU, of a stream."""
    made = to_device(array)
    made.stream = stream
    return made


X = np.arange(12, dtype=np.float32).reshape(3, 4)
INDEX = np.array([[1, 0], [3, 3], [2, 1]])


def test_the_stream_of_each_operand_is_waited_for(gpu: Driver) -> None:
    x, index, src = on(OWN, X), on(OWN, INDEX), on(OWN, X[:, :2])
    nbgather.gather(x, 1, index)
    nbgather.scatter_add(x, 1, index, src)
    assert not gpu.follows
    got = nbgather.gather(x, 1, on(OTHER, INDEX))
    assert got.stream == OWN
    assert gpu.follows == [(OWN, (OTHER,))]
    nbgather.scatter_add(x, 1, index, on(OTHER, X[:, :2]))
    assert gpu.follows == [(OWN, (OTHER,))] * 2
    nbgather.random_masking(on(OTHER, X[..., None]), 0.5, noise=x)
    assert gpu.follows[2:] == [(OTHER, (OWN,))]
    same(np.array(got.array), np.take_along_axis(X, INDEX, 1))


def test_what_is_written_to_waits_and_is_waited_for(gpu: Driver) -> None:
    """Whoever reads ``out`` in its own stream finds what was written."""
    out = on(OTHER, X[:, :2])
    nbgather.gather(on(OWN, X), 1, on(OWN, INDEX), out=out)
    assert gpu.follows == [(OWN, (OTHER,)), (OTHER, (OWN,))]
    same(np.array(out.array), np.take_along_axis(X, INDEX, 1))


def test_an_array_of_no_stream_is_ready(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.STREAMS", (OWN, NO_STREAM))
    nbgather.gather(on(OWN, X), 1, on(NO_STREAM, INDEX))
    assert not gpu.follows


def test_threads_of_two_streams(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread launches in its stream, and reads a record of its own."""
    launch, lock, seen = gpu.launch, threading.Lock(), []
    barrier = threading.Barrier(2)

    def both_before_either_reads(place: Place) -> None:
        barrier.wait(30)

    def one_by_one(*arguments: Any) -> None:
        with lock:  # the simulated memory is of one thread
            seen.append(arguments[4].stream)
            launch(*arguments)

    monkeypatch.setattr(gpu, "synchronize", both_before_either_reads)
    monkeypatch.setattr(gpu, "launch", one_by_one)
    errors: dict[int, Any] = {}

    def work(stream: int, index: np.ndarray) -> None:
        try:
            errors[stream] = nbgather.gather(on(stream, X), 1, on(stream, index)).stream
        except IndexError as error:
            errors[stream] = str(error)

    bad = INDEX.copy()
    bad[2, 1] = 9
    threads = [threading.Thread(target=work, args=(s, i)) for s, i in ((OWN, bad), (OTHER, INDEX))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [OWN, OTHER]
    said = "index 9 at (2, 1) is out of bounds for dimension 1 with size 4"
    assert errors == {OWN: said, OTHER: OTHER}
    assert len(gpu.pinned) == 2


class Foreign:
    """An array of a library that nothing is known of."""

    def __init__(self, **interface: Any) -> None:
        said = {"data": (4096, False), "shape": (3,), "typestr": "<f4"}
        self.__cuda_array_interface__ = {**said, **interface}


@pytest.mark.parametrize(
    "said, message",
    [
        ({"shape": (-4,)}, r"shape \(-4,\) .*: a tuple of whole numbers from 0 up is needed"),
        ({"shape": (1 << 64,)}, "shape .* a tuple of whole numbers"),
        ({"shape": None}, "shape None .* a tuple of whole numbers"),
        ({"strides": (4, 4)}, r"strides \(4, 4\) .*: None or a number of bytes for each"),
        ({"data": None}, r"data None .*: \(an address, whether it is read-only\) is needed"),
        ({"data": (0, False)}, r"data \(0, False\) .*: an address of memory is needed"),
        ({"typestr": "|O8"}, "typestr '|O8' .*: that of a dtype without Python's objects"),
        ({"typestr": "<q9"}, "typestr '<q9' .*: that of a dtype"),
        ({"mask": 3}, "mask 3 .*: None is needed"),
    ],
)
def test_an_interface_that_cannot_be_meant(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^a test_cuda_streams\.Foreign says {message}"):
        nbgather.rank_tokens(Foreign(**said), 2)
    array = Foreign()
    array.__cuda_array_interface__ = None
    with pytest.raises(TypeError, match="has None as its __cuda_array_interface__: a dict"):
        nbgather.rank_tokens(array, 2)


def test_an_array_of_the_interface_alone_has_a_shape() -> None:
    container = cuda_interface.CudaInterfaceContainer(lambda *a: None)
    assert container.shape(Foreign(shape=(5, 3))) == (5, 3)
    assert container.shape(Foreign(shape=(0, 3), data=(0, False))) == (0, 3)


def test_streams_of_the_interface(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "device_of", lambda address: 3, raising=False)
    place = cuda_interface._Numba().place
    assert place(Foreign()) == Place(3, NO_STREAM)
    assert place(Foreign(stream=None)) == Place(3, NO_STREAM)
    for stream in (1, 2, 2**40):
        assert place(Foreign(stream=stream)) == Place(3, stream)
    with pytest.raises(ValueError, match="says that it is of stream 0: None, 1"):
        place(Foreign(stream=0))


def test_results_are_made_on_the_device_and_of_the_stream(
    gpu: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba's arrays tell of their stream, and lie on the device that is its current one."""
    current: list[int] = []

    class Gpus:
        def __getitem__(self, device: int) -> Any:
            @contextlib.contextmanager
            def active() -> Iterator[None]:
                current.append(device)
                yield
                current.pop()

            return active()

    made: list[Any] = []
    monkeypatch.setattr(gpu, "device_of", lambda address: 1, raising=False)
    monkeypatch.setattr(numba_cuda, "gpus", Gpus())
    monkeypatch.setattr(numba_cuda, "external_stream", lambda handle: ("stream", handle))
    monkeypatch.setattr(
        numba_cuda, "device_array", lambda *a, stream: made.append((current[-1], stream))
    )
    monkeypatch.setattr(
        numba_cuda, "to_device", lambda *a, stream: made.append((current[-1], stream))
    )
    like = Foreign(typestr="<f4", shape=(3,), stream=77)
    container = cuda_interface.CudaInterfaceContainer(lambda *a: None)
    container.empty((2,), like)
    container.upload(np.zeros(2), like)
    container.empty((2,), Foreign(typestr="<f4", shape=(3,)))
    assert made == [(1, ("stream", 77)), (1, ("stream", 77)), (1, 0)]


def test_each_device_has_its_record(gpu: Driver) -> None:
    first, second = Place(0, OWN), Place(1, OWN)
    x, index = to_device(X), to_device(INDEX + 9)
    nbgather.gather(x, 1, index, mode="defer")
    device_errors.poll(backend, second)  # nothing was reported there
    gpu.records.of(1)
    nbgather.cuda.check(1)
    with pytest.raises(IndexError, match="on cuda:0"):
        device_errors.poll(backend, first)
