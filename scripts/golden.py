"""Golden vectors of the published models: inputs, and the outputs of the kernels.

``python scripts/golden.py FOLDER`` writes the models, ``golden.json`` and ``golden.bin`` to the
folder, to be run by another onnxruntime (``scripts/run_golden.py``), Node or a browser
(``scripts/js``). A case with ``"fails"`` must be refused. They are the cases of
``scripts/onnx_conformance.py`` that are tried on every change.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from onnx_conformance_parts import golden_files, vectors


def main(folder: Path) -> None:
    """Write everything."""
    models = vectors.models()
    print(golden_files.write(folder, models, vectors.vectors("usual", models)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
