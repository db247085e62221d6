"""Strange operands: the same outcome cold and warm, in our own words, and never a signal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: What is said of a bad argument.
OWN = ("TypeError", "ValueError", "IndexError", "AxisError")
#: Strangers whose own library speaks first, and what it raises.
FOREIGN = {
    "jax deleted": "RuntimeError: Array has been deleted",
    "torch fake": "AssertionError: Please convert all Tensors to FakeTensors first",
    "valid torch negative view": "NotImplementedError: \"neg_cpu\" not implemented for 'Bool'",
}
#: What needs a device, and what cannot be traced, with our own words for it.
CANNOT = {
    "cuda look-alike": "ImportError: backend 'cuda' is not available",
    "torch functional": "NotImplementedError: ",
}

Outcomes = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    program = Path(__file__).with_name("strangers.py")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.timeout(700)
def test_nothing_kills_the_process(outcomes: Outcomes) -> None:
    """Each child came to its end; the last call that one began is named otherwise."""
    killed = {
        f"{name}, {heat}": (list(child["outcomes"])[-1], child["status"])
        for name, children in outcomes.items()
        for heat, child in children.items()
        if child["status"]
    }
    assert not killed
    assert sum(len(c["cold"]["outcomes"]) for c in outcomes.values()) > 5000


def test_a_warm_call_ends_as_a_cold_one(outcomes: Outcomes) -> None:
    for name, children in outcomes.items():
        cold, warm = (children[heat]["outcomes"] for heat in ("cold", "warm"))
        assert cold == warm, name


def test_what_is_refused_is_refused_in_our_words(outcomes: Outcomes) -> None:
    others = []
    for name, children in outcomes.items():
        for label, text in children["cold"]["outcomes"].items():
            kind = text.partition(":")[0]
            if not kind.endswith(("Error", "Exception", "Interrupt")):
                continue
            expected = [t for k, t in (FOREIGN | CANNOT).items() if label.endswith(k)]
            if not (kind in OWN and len(text) > 20) and not any(map(text.startswith, expected)):
                others.append((name, label, text))
    assert not others


def test_side_operands_are_friendly(outcomes: Outcomes) -> None:
    """What only says where may be a list, of any width, or NumPy's beside torch."""
    friendly = (
        "numpy", "list", "tuple", "read-only", "byte order", "reversed", "unaligned", "uint64",
        "int16",
    )  # fmt: skip
    sides = {
        "gather": "index", "take_along_axis": "indices", "gather_tokens": "ids",
        "scatter": "index", "scatter_add": "index", "token_noise": "sample_ids",
        "random_masking": "sample_ids", "random_masking counts": "num_keep",
        "rank_tokens": "num_keep", "restore_tokens": "ids_restore",
        "masked_patchify": "sample_ids", "strategies.block": "sample_ids",
    }  # fmt: skip
    for name, side in sides.items():
        for library in ("numpy", "torch"):
            results = outcomes[f"{name} ({library})"]["cold"]["outcomes"]
            ordinary = results[f"{side} {library}"]
            assert not ordinary.partition(":")[0].endswith("Error"), ordinary
            for kind in friendly:
                if name in ("token_noise", "strategies.block"):
                    # Here the ids decide the container.
                    ordinary = results[f"{side} numpy"]
                assert results[f"{side} {kind}"] == ordinary, (name, library, kind)


def test_values_are_not_mixed(outcomes: Outcomes) -> None:
    for name, operand in (
        ("scatter", "src"), ("scatter_add", "src"), ("restore_tokens", "mask_token"),
    ):  # fmt: skip
        main = {"scatter": "input", "scatter_add": "input", "restore_tokens": "x_visible"}[name]
        for library, other in (("numpy", "torch"), ("torch", "numpy"), ("torch", "jax")):
            names = {"numpy": "NumPy", "torch": "torch", "jax": "JAX"}
            text = outcomes[f"{name} ({library})"]["cold"]["outcomes"][f"{operand} {other}"]
            assert text == (
                f"TypeError: {main} is a {names[library]} array and {operand} a {names[other]}"
                " one: both must be of one library"
            )
