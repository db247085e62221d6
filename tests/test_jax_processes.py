"""What one process compiled runs in another: by JAX's cache, as an executable, as an export."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HEAD = """
import pathlib, pickle, sys
import jax, jax.export, jax.numpy as jnp, numpy as np
from jax.experimental import serialize_executable

x = jnp.arange(24.0).reshape(2, 3, 4)
i = jnp.zeros((2, 3, 4), jnp.int32).at[1, 0, 3].set(2)
"""

WRITE = (
    HEAD
    + """
import nbgather.jax

def call(x, i):
    filled = nbgather.gather(x, 1, i, mode="fill", fill_value=jnp.pi)
    noise = nbgather.token_noise(2**64 - 1, i[:, 0, 0], 9)
    ranks = nbgather.rank_tokens(noise, [4, 9])
    added = nbgather.scatter_add(x, 1, i, x)
    grad = jax.grad(lambda x: nbgather.gather_tokens(x, i[..., 0]).sum())(x)
    return filled, noise, ranks, nbgather.random_masking(x, 0.5, seed=1), added, grad

compiled = jax.jit(call)
meant = jax.export.DisabledSafetyCheck.custom_call("nbgather")
exported = jax.export.export(compiled, disabled_checks=[meant])(x, i)
pathlib.Path("exported").write_bytes(exported.serialize())
saved = serialize_executable.serialize(compiled.lower(x, i).compile())
pathlib.Path("executable").write_bytes(pickle.dumps(saved))
np.savez("results", *jax.tree.leaves(call(x, i)))
"""
)

READ = (
    HEAD
    + """
import nbgather.jax
from nbgather.kernels.cpu import programs

want = list(np.load("results.npz").values())
exported = jax.export.deserialize(pathlib.Path("exported").read_bytes())
executable = serialize_executable.deserialize_and_load(
    *pickle.loads(pathlib.Path("executable").read_bytes())
)
assert not programs._known
for call in (exported.call, executable):
    results = call(x, i)
    assert type(results[3]).__name__ == "MaskedTokens"
    for a, b in zip(jax.tree.leaves(results), want, strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == b.tobytes()
    try:
        jax.block_until_ready(call(x, i + 1))
        raise SystemExit("no error")
    except Exception as error:
        assert "index 3 at (1, 0, 3) is out of bounds for dimension 1 with size 3" in str(error)
assert programs._known
assert "numba" not in sys.modules  # the kernels and the function were kept
"""
)

CACHED = (
    HEAD
    + """
import nbgather
jax.config.update("jax_compilation_cache_dir", "cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
jax.monitoring.register_event_listener(lambda name, **more: hits.append(name))
call = jax.jit(lambda x, i: nbgather.gather(x, 1, i))
assert np.array_equal(call(x, i), nbgather.gather(x, 1, i))
print(hits.count("/jax/compilation_cache/cache_hits") > 0)
"""
)


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True, timeout=200, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_what_was_saved_runs_elsewhere(tmp_path: Path) -> None:
    run(WRITE, tmp_path)
    run(READ, tmp_path)


def test_what_is_in_the_cache_runs_elsewhere(tmp_path: Path) -> None:
    assert [run(CACHED, tmp_path) for _ in range(2)] == ["False", "True"]
