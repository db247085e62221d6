"""From the operands of a call to the one container that executes it.

The one place that knows of mixed libraries and devices: what only says where items are is brought
to the library of the first operand, and what carries values must be of it already.
"""

from __future__ import annotations

import datetime
import functools
from typing import Any

import numpy as np

from nbgather.containers import registry
from nbgather.containers.base import Container
from nbgather.containers.sequences import from_sequence
from nbgather.engine import memo
from nbgather.engine.run import run
from nbgather.operations import checks
from nbgather.operations.base import PLAIN, Operation, Options
from nbgather.operations.tokens import ids_of

registry.hand_down(run)
_NUMPY = registry.load(registry.MODULES["numpy"])
#: What fills an array of text, times or structs.
_SCALARS = (str, bytes, tuple, np.generic, datetime.date, datetime.timedelta)

#: Sample ids are kept where a call gives their number, up to so many.
MAX_KEPT_IDS = 4096

_exact_get = registry.exact.get
require_same = registry.require_same


def recall(head: Any, *operands: Any) -> Any:
    """Repeat a small call whose like went well before; None to go the whole way.

    ``head`` is what the engine keeps such calls under, see :func:`nbgather.engine.memo.head`.
    """
    container = _exact_get(type(operands[0]))
    if container is None:
        return None
    try:
        return container.recall(head, operands)
    except TypeError:
        return None  # a head that cannot be hashed


head, gather_head = memo.head, memo.gather_head


def may_repeat(array: Any) -> bool:
    """Whether small calls of an array are repeated now."""
    container = _exact_get(type(array))
    return container is not None and container.may_repeat()


def _nothing(*_: Any) -> None:
    """Nothing is repeated while a graph is made."""


# torch.compile follows this instead, by the mark of torch.jit.script_if_tracing: a graph that saw
# the containers met so far would be made anew as soon as another one is.
recall._torchdynamo_inline = _nothing  # type: ignore[attr-defined]
may_repeat._torchdynamo_inline = _nothing  # type: ignore[attr-defined]


def is_plain_draw(seed: Any, epoch: Any) -> bool:
    """Whether seed and epoch are ints that noise can be drawn by."""
    return (
        type(seed) is int and type(epoch) is int and -(2**63) <= seed < 2**64 and 0 <= epoch < 2**32
    )


def recall_draw(head: Any, sample_ids: Any, seed: Any, epoch: Any) -> Any:
    """Repeat what was made of sample ids, a seed and an epoch alone, or None."""
    if not is_plain_draw(seed, epoch):
        return None
    if type(sample_ids) is int and 0 < sample_ids <= MAX_KEPT_IDS:
        sample_ids = first_ids(sample_ids)
    return recall(head, sample_ids, seed, epoch)


def recall_masking(
    kind: tuple[Any, ...], ratio: Any, number: Any, operands: tuple[Any, ...]
) -> Any:
    """Repeat a small masking whose like went well before, or None.

    ``kind`` is the operation with what it has besides; the operands are (x, noise, sample_ids,
    seed, epoch).
    """
    x, noise, ids, seed, epoch = operands
    if number is None and type(ratio) is float:
        head = *kind, float, ratio or repr(ratio), None
    elif type(number) is int:
        head = *kind, None, int, number or "0"
    else:
        return None
    if noise is None:
        return recall(head, x, None, ids, seed, epoch) if is_plain_draw(seed, epoch) else None
    if seed is None and ids is None and is_plain_draw(0, epoch):
        return recall(head, x, noise, None, None, epoch)
    return None


def container_of(array: Any, what: str) -> Container:
    """The container of an array; ``what`` names the argument in the TypeError."""
    return registry.find(array, what)


def execute(
    operation: Operation, *operands: Any, out: Any = None, backend: str | None = None
) -> Any:
    """Execute an operation on operands as they came to a public function."""
    first, names = operands[0], operation.names
    container = registry.find(first, names[0])
    if len(operands) > 1:
        ready = list(operands)
        for k in operation.sides:
            if operands[k] is not None or k not in operation.optional:
                ready[k] = _beside(container, first, names[0], operands[k], names[k])
        for k in operation.values:
            if k not in operation.may_be_numbers or not is_number(operands[k]):
                require_same(container, first, names[0], operands[k], names[k])
        operands = tuple(ready)
    options = PLAIN
    if out is not None or backend is not None:
        options = Options(out, backend)
        if out is not None and container.takes_out:
            _require_same_library(container, out)
    return container.execute(operation, operands, options)


def _require_same_library(container: Container, out: Any) -> None:
    other = registry.find(out, "out")
    if other.name != container.name:
        raise TypeError(f"out is a {other.name} array and the operands are {container.name} ones")
    if other is not container:
        raise TypeError(f"out is on {other.device(out)} and the operands on {container.home}")


def _beside(container: Container, array: Any, what: str, other: Any, other_what: str) -> Any:
    """``other``, which says where items are, as an array of the library of ``array``.

    It may be a list, a tuple, a range, or a NumPy array beside one of torch, JAX or Dask on the
    CPU. What goes to a GPU must be there already, unless it is a list.
    """
    kind = type(other)
    if kind is list or kind is tuple or kind is range:
        return container.side_sequence(other, lambda: from_sequence(other, other_what), array)
    if container is _NUMPY and kind is np.ndarray:
        return other
    second = registry.find(other, other_what)
    if second is _NUMPY and second is not container and container.takes_numpy:
        if container.home != "cpu":
            raise TypeError(
                f"{what} is on {container.device(array)} and {other_what} a NumPy array on the CPU:"
                " both must be on one device"
            )
        return container.side(other, array)
    require_same(container, array, what, other, other_what)
    return other


def beside(array: Any, what: str, other: Any, other_what: str) -> Any:
    """``other``, which says where items are, as an array of the library of ``array``."""
    return _beside(container_of(array, what), array, what, other, other_what)


def permuted(array: Any, what: str, axes: tuple[int, ...]) -> Any:
    """A view of an array with its dimensions in another order."""
    container = container_of(array, what)
    container.require_strided(array)
    return container.namespace(array).permute_dims(array, axes)


def packed_rows(ids: Any, counts: Any) -> tuple[Any, Any]:
    """Ids `[..., K]` of which -1 is none, one after the other, and int32 where each row begins.

    How many there are is a value: a TypeError where the values are not known.
    """
    container = container_of(ids, "sample_ids")
    if known_integers(counts, "counts") is None and container.home == "cpu":
        raise TypeError(
            "packed ids were asked for where a library traces the call, which does not know how"
            " many there are: call it outside, or take padded ones"
        )
    xp = container.namespace(ids)
    row = xp.reshape(ids, (-1,))
    numbers = xp.reshape(counts, (-1,))
    ends = xp.cumsum(xp.concat([xp.zeros_like(numbers[:1]), numbers]), 0)
    if not len(numbers):
        ends = xp.zeros((1,), dtype=numbers.dtype)
    return row[row >= 0], xp.astype(ends, xp.int32)


def flat(array: Any, what: str) -> Any:
    """An array with one dimension."""
    container = container_of(array, what)
    container.require_strided(array)
    if hasattr(array, "reshape"):
        return array.reshape(-1)
    return container.namespace(array).reshape(array, (-1,))


def shape_of(array: Any, what: str) -> tuple[Any, ...]:
    """The shape of an array; a TypeError where its library has none that can be served."""
    return container_of(array, what).shape(array)


def evaluate(array: Any, what: str, function: Any, arguments: tuple[Any, ...]) -> Any:
    """A function of numbers alone, computed at once where the array's library traces the call."""
    return container_of(array, what).evaluate(function, arguments)


def pair_of(array: Any, what: str) -> tuple[Any, Any]:
    """N and L of tokens or scores `[N, L, ...]`."""
    shape = shape_of(array, what)
    if what == "x":
        checks.tokens(shape)
    return (shape[0], shape[1]) if len(shape) > 1 else (None, None)


@functools.lru_cache(maxsize=64)
def first_ids(count: int) -> np.ndarray:
    """The ids 0 to ``count`` - 1, an array that is read only: it is kept."""
    ids = np.arange(count, dtype=np.int64)
    ids.flags.writeable = False
    return ids


def array_of_ids(sample_ids: Any) -> Any:
    """Sample ids as an array: 0 to N-1 for a number N, a sequence, or as they came."""
    if isinstance(sample_ids, (int, np.integer)):
        count = checks.count(sample_ids, "sample_ids")
        return first_ids(count) if count <= MAX_KEPT_IDS else np.arange(count, dtype=np.int64)
    if isinstance(sample_ids, (list, tuple, range)):
        return from_sequence(sample_ids, "sample_ids")
    return sample_ids


def ids_beside(sample_ids: Any, samples: Any, what: str) -> Any:
    """Sample ids of N samples; None for 0 to N-1, which the number N stands for too."""
    if isinstance(sample_ids, (int, np.integer)):
        ids_of((checks.count(sample_ids, "sample_ids"),), samples, what)
        return None
    return sample_ids


def fill_value(mode: Any, value: Any) -> Any:
    """The value that a mode fills with, as a scalar of Python or NumPy."""
    fills = isinstance(mode, str) and mode in ("fill", "defer")
    return scalar(value, "fill_value") if fills else 0


def scalar(value: Any, what: str) -> Any:
    """A scalar of Python or NumPy, also where a 0-d array of a library holds it."""
    if is_number(value) or isinstance(value, _SCALARS):
        return value
    if not hasattr(type(value), "shape"):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{what} is a {kind}: a scalar is needed")
    container = registry.find(value, what)
    if tuple(value.shape) != ():
        raise TypeError(f"{what} has shape {tuple(value.shape)}: a scalar is needed")
    if container.home != "cpu":
        raise TypeError(f"{what} is on {container.device(value)}: a scalar on the host is needed")
    return container.host_scalar(value)


def one_more_than(ids: Any, what: str) -> int:
    """One more than the largest of some ids, 0 where there are none."""
    if isinstance(ids, (list, tuple, range)):  # which torch can trace
        numbers = [checks.integer(value, what) for value in ids]
        return max(numbers) + 1 if numbers else 0
    values = np.asarray(host_counts(ids, what))
    checks.index_dtype(_NUMPY.spec(values).dtype, what)
    return int(values.max()) + 1 if values.size else 0


def host_counts(value: Any, what: str) -> Any:
    """Counts as Python's or NumPy's numbers, also where a library's array on the CPU holds them."""
    if value is None or isinstance(value, np.generic) or not hasattr(type(value), "shape"):
        return value
    container = registry.find(value, what)
    if container.home != "cpu":
        raise TypeError(f"{what} is on {container.device(value)}: counts on the host are needed")
    return container.host_integers(value, what)


def known_integers(value: Any, what: str) -> np.ndarray | None:
    """A few whole numbers where their values are known on the host; None on a device or traced."""
    if value is None or isinstance(value, (list, tuple, range)):
        return None if value is None else np.asarray(value)
    container = registry.find(value, what)
    if container.home != "cpu":
        return None
    try:
        return container.host_integers(value, what)
    except TypeError:  # traced, or told of by the operation
        return None


def is_number(value: Any) -> bool:
    """Whether it is a scalar of Python or NumPy."""
    return isinstance(value, (int, float, complex, np.number, np.bool_))
