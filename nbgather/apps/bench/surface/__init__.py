"""The surface: random calls of every public function against every peer that does the same.

``draws`` cuts shapes and indices from random numbers, the modules ``*_cases`` make calls of them,
and ``functions`` is the table of all; ``run`` compares and times them with ``race``, ``summary``
and ``picture`` tell what came out, and ``bounds`` what a call waits for.
"""

from nbgather.apps.bench.surface.functions import FUNCTIONS, select_functions
from nbgather.apps.bench.surface.picture import surface_map
from nbgather.apps.bench.surface.run import DEFAULT_COUNT, run_surface
from nbgather.apps.bench.surface.store import surface_json
from nbgather.apps.bench.surface.summary import surface_text

__all__ = [
    "DEFAULT_COUNT",
    "FUNCTIONS",
    "run_surface",
    "select_functions",
    "surface_json",
    "surface_map",
    "surface_text",
]
