"""What the plans of gathers are, and what they are expected to cost."""

from __future__ import annotations

from typing import Any

from nbgather.containers.dask.expectations import Choice
from nbgather.containers.dask.gather_graph import GatherLayer
from nbgather.containers.dask.sides import chunked


def explain(array: Any) -> list[Choice]:
    """The plans of the gathers that a lazy array is made of, and what they are expected to cost.

    On a cluster what travels is up to its scheduler, which is asked where chunks lie that are kept
    there by ``persist``: ``moved`` is what is usual on workers that do nothing else, and
    ``moved_between`` the least and the most. What comes before and after a gather is not counted.

    Parameters
    ----------
    array : dask.array.Array
        The result of a gather, or of what was made of it.

    Returns
    -------
    list of Choice
        The plan of each gather, the reason, and how many tasks, which bytes and how much memory of
        a worker are expected; inputs of a graph before what is made of them.

    Raises
    ------
    TypeError
        What is no Dask array.

    Examples
    --------
    >>> import dask.array as da
    >>> from nbgather import dask as nd
    >>> x = da.zeros((1000, 65536), chunks=(500, 8192), dtype="float32")
    >>> picked = nd.gather(x, 1, da.zeros((1000, 4096), chunks=(500, -1), dtype=int))
    >>> [choice] = nd.explain(picked + 1)
    >>> choice.plan, choice.read, choice.moved
    ('concatenate', 262144000, 0)
    """
    graph = chunked(array, "array").__dask_graph__()
    layers = (graph.layers[name] for name in graph._toposort_layers())
    return [layer.expect(graph.layers) for layer in layers if isinstance(layer, GatherLayer)]
