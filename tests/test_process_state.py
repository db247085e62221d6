"""No call changes the state of the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: The state of a process that other code relies on, and a call of every public function.
PROGRAM = """
import decimal, gc, locale, logging, multiprocessing, os, random, signal, sys, threading, warnings
import numpy as np
import torch
import nbgather
from nbgather.torch import MaskingCollate, RandomMasking
import nbgather.dask, nbgather.explain, nbgather.onnx
import dask, onnxruntime, jax
{extra}

def settings():
    # The settings of each OpenMP library, for the calling thread.
    import ctypes, re
    maps = open("/proc/self/maps").read()
    found = re.findall(r"(/\\S*/lib(?:gomp|omp|iomp5)[^/\\s]*\\.so[^/\\s]*)$", maps, re.M)
    names = "omp_get_max_threads", "omp_get_max_active_levels"
    libraries = [ctypes.CDLL(path) for path in sorted(set(found))]
    return {{(l._name, n): getattr(l, n)() for l in libraries for n in names if hasattr(l, n)}}

def snapshot():
    return {{
        "torch threads": torch.get_num_threads(),
        "torch interop threads": torch.get_num_interop_threads(),
        "torch device": str(torch.get_default_device()),
        "torch dtype": torch.get_default_dtype(),
        "torch grad": torch.is_grad_enabled(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch random": torch.get_rng_state().tolist(),
        "OpenMP": {{k: v for k, v in settings().items() if k in KNOWN}},
        "random": random.getstate(),
        "numpy random": str(np.random.get_state()),
        "numpy errors": np.geterr(),
        "numpy print": str(np.get_printoptions()),
        "warnings": list(warnings.filters),
        "signals": {{s: signal.getsignal(s) for s in signal.valid_signals()}},
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "decimal": str(decimal.getcontext()),
        "garbage": (gc.isenabled(), gc.get_threshold()),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "path": list(sys.path),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "start": multiprocessing.get_start_method(allow_none=True),
        "jax": jax.config.jax_enable_x64,
    }}

KNOWN = set(settings())
n = {n}
x = torch.rand(n, 196, 64)
ids = torch.arange(n)
noise = torch.rand(n, 196)
index = torch.randint(0, 64, x.shape)
images = torch.rand(n, 3, 32, 32)
kept, mask, ranks = torch.rand(n, 49, 64), None, torch.rand(n, 196).argsort(1)
big = np.random.default_rng(0).random((n * 40, 400))
CALLS = {{
    "gather": lambda: nbgather.gather(x, 2, index),
    "gather numpy": lambda: nbgather.gather(big, 1, np.zeros(big.shape, np.int64)),
    "take_along_axis": lambda: nbgather.take_along_axis(x, index, 2),
    "gather_tokens": lambda: nbgather.gather_tokens(x, ranks),
    "scatter": lambda: nbgather.scatter(x, 2, index, x),
    "scatter_add": lambda: nbgather.scatter_add(x, 2, index, x),
    "infer_gather": lambda: nbgather.infer_gather(x[:2, :4, :4], x[:2, :4, :2]),
    "token_noise": lambda: nbgather.token_noise(1, ids, 4096),
    "rank_tokens": lambda: nbgather.rank_tokens(noise, 49),
    "random_masking": lambda: nbgather.random_masking(x, seed=1),
    "random_masking noise": lambda: nbgather.random_masking(x, noise=noise),
    "restore_tokens": lambda: nbgather.restore_tokens(kept, ranks, 0.0),
    "patchify": lambda: nbgather.patchify(images, 4),
    "unpatchify": lambda: nbgather.unpatchify(nbgather.patchify(images, 4), 4, 32),
    "masked_patchify": lambda: nbgather.masked_patchify(images, 4, seed=1),
    "block": lambda: nbgather.strategies.block(1, ids, (14, 14)),
    "grid": lambda: nbgather.strategies.grid(1, ids, (14, 14)),
    "time_frequency": lambda: nbgather.strategies.time_frequency(1, ids, (14, 14)),
    "tube": lambda: nbgather.strategies.tube(1, ids, (2, 7, 14)),
    "random": lambda: nbgather.strategies.random(1, ids, (14, 14)),
    "RandomMasking": lambda: RandomMasking()(x, ids),
    "MaskingCollate": lambda: MaskingCollate(16)([(1, images[0]), (2, images[1])]),
    "dask": lambda: nbgather.gather(
        dask.array.from_array(big, chunks=200), 1, np.zeros(big.shape, np.int64)
    ).compute(scheduler="sync"),
    "onnx": lambda: nbgather.onnx.verify(nbgather.onnx.masking_model(0.5)),
    "explain": lambda: nbgather.explain.explain_gather(big[:2, :2], 1, np.zeros((2, 1), int)),
    "backends": nbgather.backends.available,
}}
for name in {names}:
    before = snapshot()
    CALLS[name]()
    after = snapshot()
    changed = {{k: (before[k], after[k]) for k in before if before[k] != after[k]}}
    assert not changed, (name, changed)
print("unchanged", len(CALLS))
"""


def run(program: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=280,
        env={**os.environ, **environment}, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize(
    "extra",
    [
        "",
        pytest.param("torch.set_num_threads(1)", marks=pytest.mark.large),
        "torch.set_num_threads(1); import numba; numba.set_num_threads(1)",
    ],
)
@pytest.mark.parametrize("n", [2, pytest.param(64, marks=pytest.mark.large)])
def test_no_call_changes_the_process(n: int, extra: str) -> None:
    """Neither of a size that runs on one thread, nor of one that runs on all cores."""
    assert "unchanged" in run(PROGRAM.format(extra=extra, n=n, names="CALLS"))


FIRST = """
import threading
import torch
import nbgather
torch.set_num_threads({threads})
x = torch.rand(64, 196, 512)
counts = []

def call():
    torch.set_num_threads({threads})
    nbgather.random_masking(x, seed=1)
    counts.append(torch.get_num_threads())

if {in_thread}:
    worker = threading.Thread(target=call)
    worker.start()
    worker.join()
else:
    call()
counts.append(torch.get_num_threads())
print(counts)
"""


@pytest.mark.parametrize(
    "in_thread, threads",
    [
        (False, 3), (True, 1),
        *(pytest.param(*case, marks=pytest.mark.large) for case in ((False, 1), (True, 3))),
    ],
)  # fmt: skip
def test_the_first_parallel_call_leaves_the_thread_count(in_thread: bool, threads: int) -> None:
    assert run(FIRST.format(threads=threads, in_thread=in_thread)).strip() == str([threads] * 2)


def test_the_bits_of_other_layers_stay() -> None:
    """A layer's gradient depends on torch's thread count, so its bits show a change of it."""
    program = """
import hashlib, sys, torch
torch.manual_seed(0)
torch.set_num_threads(1)
if {call}:
    import nbgather
    nbgather.random_masking(torch.rand(64, 196, 512), seed=1)
torch.manual_seed(0)
layer = torch.nn.LayerNorm(512)
layer(torch.rand(64, 196, 512)).pow(3).sum().backward()
print(hashlib.sha256(layer.weight.grad.numpy().tobytes()).hexdigest())
"""
    assert run(program.format(call=True)) == run(program.format(call=False))


def test_the_users_numba_threads_stay() -> None:
    program = """
import numba, numpy as np, nbgather
numba.set_num_threads(1)
nbgather.gather(np.zeros((2000, 2000)), 1, np.zeros((2000, 2000), int))
assert numba.get_num_threads() == 1
"""
    run(program)


BAD_COUNTS = ("²", "0", "-1", "1.5", " 2 ", "１", "two")


@pytest.fixture(scope="module")
def messages() -> dict[str, str]:
    """What a process says that starts with the first of these counts and then has each."""
    program = """
import json, os
import numpy as np, nbgather
messages = {{}}
for text in {counts!r}:
    assert messages or os.environ["NBGATHER_NUM_THREADS"] == text
    os.environ["NBGATHER_NUM_THREADS"] = text
    try:
        nbgather.gather(np.zeros((2000, 2000)), 1, np.zeros((2000, 2000), int))
    except ValueError as error:
        messages[text] = str(error)
print(json.dumps(messages))
"""
    settings = {"NBGATHER_NUM_THREADS": BAD_COUNTS[0], "PYTHONIOENCODING": "utf-8"}
    return json.loads(run(program.format(counts=BAD_COUNTS), **settings))


@pytest.mark.parametrize("text", BAD_COUNTS)
def test_a_bad_number_of_threads_is_told(text: str, messages: dict[str, str]) -> None:
    expected = f"NBGATHER_NUM_THREADS is {text!r}: a whole number from 1 up is needed"
    assert messages[text] == expected
