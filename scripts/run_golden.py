"""Run golden vectors by the onnxruntime of this Python: ``python run_golden.py FOLDER``.

Needs NumPy and onnxruntime alone, of any version. Exit status 1 if a byte differs, or if a model
accepts what it must refuse.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(folder: Path) -> int:
    """Run every case; how many went wrong."""
    data = (folder / "golden.bin").read_bytes()
    cases = json.loads((folder / "golden.json").read_text())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    sessions, wrong = {}, 0

    def array(place):
        start = place["offset"]
        return np.frombuffer(data[start : start + place["nbytes"]], place["dtype"]).reshape(
            place["shape"]
        )

    for number, case in enumerate(cases):
        model = case["model"]
        if model not in sessions:
            sessions[model] = onnxruntime.InferenceSession(
                str(folder / model), options, providers=["CPUExecutionProvider"]
            )
        names = list(case.get("outputs", {}))
        feeds = {name: array(place) for name, place in case["inputs"].items()}
        quiet = onnxruntime.RunOptions()
        quiet.log_severity_level = 4
        try:
            result = sessions[model].run(names or None, feeds, quiet)
        except Exception as error:
            problem = None if case.get("fails") else f"failed: {' '.join(str(error).split())}"
        else:
            wants = [array(case["outputs"][name]) for name in names]
            different = [
                name
                for name, got, want in zip(names, result, wants)
                if (got.dtype, got.shape, got.tobytes()) != (want.dtype, want.shape, want.tobytes())
            ]
            problem = f"other {', '.join(different)}" if different else None
            if case.get("fails"):
                problem = "took what it must refuse"
        if problem:
            wrong += 1
            shapes = {name: feed.shape for name, feed in feeds.items()}
            print(f"case {number}, {model} {shapes}: {problem}")
    print(
        f"onnxruntime {onnxruntime.__version__}: {len(cases) - wrong} of {len(cases)} cases of"
        f" {len(sessions)} models as they should be"
    )
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1])) else 0)
