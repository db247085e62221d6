"""Gathers and scatters by the patterns of the Spatter benchmark (https://github.com/hpcgarage/spatter).

``patterns`` makes indices of a pattern's text, ``configuration`` reads a file, and ``run`` times
what it asks for beside a copy of as many bytes. ``files`` has some files to begin with.
"""

from nbgather.apps.bench.spatter.configuration import Configuration, load_spatter, shipped_files
from nbgather.apps.bench.spatter.run import run_spatter, spatter_markdown

__all__ = ["Configuration", "load_spatter", "run_spatter", "shipped_files", "spatter_markdown"]
