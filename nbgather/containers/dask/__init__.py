"""Dask arrays: a table of operations and the graphs that they become.

The modules ``*_graph`` build the graphs, ``plans`` chooses among those of a gather,
``blocks`` is what their tasks run, ``sides`` what comes beside the main operand, chunked or not.
"""

from __future__ import annotations

from typing import Any

import dask.array as da

from nbgather.containers.base import Container
from nbgather.containers.dask import (
    gather_graph,
    masking_graph,
    patch_graph,
    placing_graph,
    rank_graph,
    restore_graph,
    scatter_graph,
    segment_graph,
)
from nbgather.operations.base import Operation, Options
from nbgather.operations.blocks import MultiBlock
from nbgather.operations.indexing import Gather, GatherTokens, Scatter, ScatterAdd, TakeAlongAxis
from nbgather.operations.packing import PackedMasking, PackedPatchify
from nbgather.operations.patches import MaskedPatchify, Patchify, Unpatchify
from nbgather.operations.reducing import ScatterReduce
from nbgather.operations.scores import OwnScores, Score, Stripes, Tube
from nbgather.operations.segments import GatherReduce, SegmentReduce
from nbgather.operations.tokens import (
    RandomMasking,
    RankTokens,
    RestoreTokens,
    RestoreValidTokens,
    TokenNoise,
)

#: The graph of each operation.
GRAPHS: dict[type[Operation], Any] = {
    Gather: gather_graph.build,
    TakeAlongAxis: gather_graph.build,
    GatherTokens: gather_graph.build,
    Scatter: placing_graph.build,
    ScatterAdd: scatter_graph.build,
    ScatterReduce: scatter_graph.build,
    SegmentReduce: segment_graph.build,
    GatherReduce: segment_graph.build,
    TokenNoise: masking_graph.by_id,
    Score: masking_graph.by_id,
    MultiBlock: masking_graph.by_id,
    Stripes: masking_graph.by_id,
    OwnScores: masking_graph.by_id,
    Tube: masking_graph.by_id,
    RankTokens: rank_graph.build,
    RestoreTokens: restore_graph.build,
    RestoreValidTokens: restore_graph.build,
    RandomMasking: masking_graph.build,
    MaskedPatchify: masking_graph.build,
    PackedMasking: masking_graph.build,
    PackedPatchify: masking_graph.build,
    Patchify: patch_graph.patchify,
    Unpatchify: patch_graph.unpatchify,
}
#: What the public functions of the other operations are called.
_FUNCTIONS = {
    "RestorePacked": "restore_tokens",
    "MultiBlockIds": "multiblock_ids",
    "InferGather": "infer_gather",
}


class DaskContainer(Container):
    """Dask arrays of any chunks."""

    name = "Dask"
    takes_numpy, takes_out = True, False

    def serves(self, kind: type) -> bool:
        return issubclass(kind, da.Array)

    def require_strided(self, array: Any) -> None:
        """Whatever has chunks can be reshaped."""

    def device(self, array: Any) -> str:
        return "a Dask cluster"

    def side(self, array: Any, like: Any) -> Any:
        return array

    def side_sequence(self, values: Any, array: Any, like: Any) -> Any:
        return values  # whose array is made beside the chunks

    def execute(self, operation: Operation, operands: tuple[Any, ...], options: Options) -> Any:
        graph = GRAPHS.get(type(operation))
        if graph is None:
            name = _FUNCTIONS.get(type(operation).__name__, type(operation).__name__)
            raise TypeError(
                f"{name} does not take Dask arrays: x.map_blocks(...) applies it to each chunk"
            )
        if options.out is not None or options.backend is not None:
            raise ValueError("out= or backend= was given for Dask arrays: they have neither")
        return graph(operation, *operands)


SERVES = DaskContainer
