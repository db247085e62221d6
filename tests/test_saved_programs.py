"""Programs that torch saved or exports, and what they say where our part is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nbgather
import nbgather.torch
from nbgather.onnx import torch_translation_table


class Masking(torch.nn.Module):
    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(nbgather.random_masking(x, 0.5, noise=noise))


ARGS = (torch.rand(2, 4, 3), torch.rand(2, 4))
LOAD = """
import sys
import torch
{imports}
x, noise, expected = torch.load(sys.argv[2])
made = torch.export.load(sys.argv[1]).module()(x, noise)
assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
print("equal")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("saved")
    program = torch.export.export(Masking(), ARGS)
    torch.export.save(program, folder / "program.pt2")
    torch.save((*ARGS, Masking()(*ARGS)), folder / "case.pt")
    return [folder / "program.pt2", folder / "case.pt"]


def load(saved: list[Path], imports: str) -> subprocess.CompletedProcess[str]:
    code = LOAD.format(imports=imports)
    return subprocess.run([sys.executable, "-c", code, *saved], capture_output=True, text=True)


def test_a_saved_program_runs_where_our_operators_are(saved: list[Path]) -> None:
    assert load(saved, "import nbgather.torch").stdout == "equal\n"


def test_elsewhere_torch_names_the_operator(saved: list[Path]) -> None:
    """The message is torch's own; nbgather.torch's docstring says what to do."""
    result = load(saved, "")
    assert result.returncode == 1
    assert "torch.ops.nbgather.random_masking" in result.stderr
    assert "import nbgather.torch" in nbgather.torch.__doc__


@pytest.mark.filterwarnings("ignore")
def test_the_exporters_name_the_operator_too() -> None:
    with pytest.raises(Exception, match=r"No ONNX function found for <OpOverload\(op='nbgather"):
        torch.onnx.export(Masking().eval(), ARGS, dynamo=True, verbose=False, opset_version=18)
    with pytest.raises(Exception, match="unrecognized namespace nbgather::random_masking"):
        torch.onnx.export(Masking().eval(), ARGS, "unused.onnx", dynamo=False)
    program = torch.onnx.export(
        Masking().eval(), ARGS, dynamo=True, verbose=False, opset_version=18,
        custom_translation_table=torch_translation_table(),
    )  # fmt: skip
    assert program is not None
    assert "torch_translation_table" in nbgather.torch.__doc__


@pytest.mark.parametrize("torch_first", [False, True])
def test_the_first_call_of_a_process_may_be_a_compiled_one(torch_first: bool) -> None:
    """The container of tensors is loaded while torch traces."""
    imports = ("import torch", "import nbgather")
    program = "\n".join(
        [
            *(imports if torch_first else imports[::-1]),
            "def call(x, noise, index):",
            "    masked = nbgather.random_masking(x, 0.5, noise=noise)",
            "    return nbgather.gather(x, 1, index), *masked",
            "compiled = torch.compile(call, fullgraph=True, backend='aot_eager')",
            "x, noise = torch.rand(2, 4, 3), torch.rand(2, 4)",
            "arguments = x, noise, torch.zeros(2, 1, 3, dtype=torch.int64)",
            "results = zip(compiled(*arguments), call(*arguments), strict=True)",
            "print(all(torch.equal(a, b) for a, b in results))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr[-2000:]


OPEN = torch.export.Dim.DYNAMIC
#: Calls whose arguments are of sizes of the operands; all of the graph's sizes are open.
OF_SIZES = {
    "num_keep": lambda x, ids: nbgather.random_masking(
        x, seed=1, sample_ids=ids, num_keep=x.shape[1] // 2
    ),
    "num_tokens": lambda x, ids: nbgather.token_noise(3, ids, x.shape[1]),
    "grid": lambda x, ids: nbgather.strategies.block(3, ids, (x.shape[1] // 4, x.shape[2])),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", OF_SIZES)
def test_numbers_that_are_sizes_stay_open(name: str, strict: bool) -> None:
    call = OF_SIZES[name]

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor, ids: torch.Tensor) -> Any:
            return call(x, ids)

    sizes = {"x": {0: OPEN, 1: OPEN, 2: OPEN}, "ids": {0: OPEN}}
    args = torch.rand(2, 8, 3), torch.arange(2)
    program = torch.export.export(Module(), args, dynamic_shapes=sizes, strict=strict).module()
    other = torch.rand(5, 12, 4), torch.arange(5)
    for got, want in zip(program(*other), call(*other), strict=True):
        assert torch.equal(got, want)
