"""What is asked of the CUDA driver, without one: what is missing, and what a launch hands over."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cuda.bindings import driver as cuda_driver

import nbgather
from nbgather.kernels.cuda import driver as our_driver
from nbgather.kernels.cuda import gather

ROOT = Path(__file__).parents[1]


def test_without_a_gpu_one_line_says_what_is_missing() -> None:
    reason = nbgather.backends.available()["cuda"]
    if reason is None:
        pytest.skip("there is a GPU here")
    code = """if True:
        import numpy, nbgather
        nbgather.gather(numpy.zeros(3), 0, numpy.zeros(3, int), backend="cuda")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = done.stderr.strip().splitlines()[-1]
    assert line == f"ImportError: backend 'cuda' is not available: {reason}"
    assert "driver" in reason or "device" in reason


def test_a_launch_hands_the_driver_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a launch but the device: compiled, linked, and its numbers in the order of the PTX."""
    success = cuda_driver.CUresult.CUDA_SUCCESS
    seen: dict[str, Any] = {}

    def load(image: bytes) -> Any:
        seen["image"] = image
        return success, "module"

    def find(module: Any, name: bytes) -> Any:
        seen["name"] = name
        return success, "function"

    def launch(function: Any, *numbers: Any) -> Any:
        *shape, shared, stream, pointers, extra = numbers
        places = (ctypes.c_uint64 * 11).from_address(pointers)
        seen["values"] = [ctypes.c_uint64.from_address(at).value for at in places]
        seen["launch"] = function, shape, shared, stream, extra
        return (success,)

    monkeypatch.setattr(cuda_driver, "cuCtxGetCurrent", lambda: (success, 1))
    monkeypatch.setattr(
        cuda_driver, "cuDeviceGetAttribute", lambda *a: (success, 9 - 9 * _minor(a))
    )
    monkeypatch.setattr(cuda_driver, "cuModuleLoadData", load)
    monkeypatch.setattr(cuda_driver, "cuModuleGetFunction", find)
    monkeypatch.setattr(cuda_driver, "cuLaunchKernel", launch)
    our_driver.capability.cache_clear()
    numbers = (1, 2, 3, 2**64 - 8, 5, 6, 7, 2**63, 9)
    for _ in range(2):
        our_driver.launch(
            "a test's", lambda memory: gather.make_copy(memory, 2, 4, False),
            (5, 3), (32, 8), our_driver.Place(0, 77), (2**63 + 8, 16), numbers,
        )  # fmt: skip
        assert seen["values"] == [2**63 + 8, 16, *numbers]
        assert seen["launch"] == ("function", [5, 3, 1, 32, 8, 1], 0, 77, 0)
    assert seen["image"].startswith(b"\x7fELF")
    assert seen["name"] in seen["image"]
    our_driver.capability.cache_clear()
    failed = cuda_driver.CUresult.CUDA_ERROR_LAUNCH_FAILED
    monkeypatch.setattr(cuda_driver, "cuLaunchKernel", lambda *a: (failed,))
    with pytest.raises(RuntimeError, match="CUDA: CUDA_ERROR_LAUNCH_FAILED"):
        our_driver.launch(
            "a test's",
            lambda memory: None,
            (1, 1),
            (32, 1),
            our_driver.Place(0, 0),
            (1, 2),
            numbers,
        )


def _minor(arguments: tuple[Any, ...]) -> bool:
    return "MINOR" in arguments[0].name


@pytest.mark.parametrize("name", ["gather rows, 16 B, raise", "scatter lines, set u16"])
def test_the_text_for_one_architecture_is_that_for_the_other(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """scripts/check_cuda.py compiles a kernel once and assembles it for both."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import check_cuda

    (kernel,) = (k for k in check_cuda.all_kernels() if k.name == name)

    def text(cc: tuple[int, int]) -> str:
        numbered = re.sub(r"\.target sm_\d+", ".target", check_cuda.ptx_of(kernel, cc))
        return re.sub(r"_Z\w+(\$\w+)*|_cudapy_smem_\d+", "NAME", numbered)

    oldest, newest = map(text, check_cuda.ARCHITECTURES)
    assert "NAME" in oldest
    assert oldest == newest
