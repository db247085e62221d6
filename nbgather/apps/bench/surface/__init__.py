"""The surface: random calls of every public function against every peer that does the same.

``draws`` cuts shapes and indices from random numbers, the modules ``*_cases`` make calls of them,
and ``functions`` is the table of all; ``run`` compares and times them with ``race``, ``summary``
and ``picture`` tell what came out, and ``bounds`` what a call waits for.
"""

from nbgather.apps.bench.surface.functions import FUNCTIONS, select_functions
from nbgather.apps.bench.surface.run import run_surface
from nbgather.apps.bench.surface.summary import surface_text

__all__ = ["FUNCTIONS", "run_surface", "select_functions", "surface_text"]
