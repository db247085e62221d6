"""Where JAX has an array, and what is said where nothing can be compiled for that place."""

from __future__ import annotations

from typing import Any, NoReturn


def platform_of(device: Any) -> str:
    """Whose memory a device of JAX has: JAX calls GPUs of NVIDIA and of others "gpu"."""
    platform: str = device.platform
    if platform != "gpu":
        return platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def refuse_traced(what: str, platform: str) -> NoReturn:
    """The error of a call that JAX traces for a GPU."""
    raise NotImplementedError(
        f"{what} was traced by JAX for {platform}: kernels are compiled into programs for the CPU"
        " alone; call it outside of jit, grad and vmap, or on arrays of jax.devices('cpu')"
    )
