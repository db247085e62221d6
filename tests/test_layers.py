"""Imports point down: the contracts of pyproject.toml hold, and each of them can fail."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nbgather"

#: Packages that an import inside a function keeps unloaded until they are needed, and why.
UNLOADED = {
    "PIL": "an extra; for pictures alone",
    "cuda": "an extra; it looks for a driver when it is loaded",
    "cupy": "never a dependency; its arrays bring it",
    "dask": "an extra, and slow to load",
    "decimal": "slow to load, and for one strategy alone",
    "jax": "never a dependency; its arrays bring it",
    "matplotlib": "an extra, and slow to load",
    "ml_dtypes": "an extra; models of bfloat16 alone need it",
    "lzma": "not in every Python",
    "numba": "slow to load, and its CUDA looks for a driver then",
    "numpy": "not for --help, which is to be quick",
    "onnx": "an extra, and slow to load",
    "onnxruntime": "an extra, and slow to load",
    "onnxscript": "never a dependency of what is installed; torch.onnx.export brings it",
    "resource": "not on Windows",
    "distributed": "not for each program that has Dask; asked for a cluster, or where it is loaded",
    "scipy": "never a dependency; the bench has it beside us where it is there",
    "rich": "an extra; progress bars alone need it",
    "torch": "an extra, and slow to load",
    "typer": "an extra; the command line alone needs it",
    "zarr": "an extra, and slow to load",
}

#: Modules of the package itself that are imported inside a function: (who, whom), and why.
OWN = {
    ("nbgather.apps.bench.beside", "nbgather.onnx"): "loads onnx",
    ("nbgather.apps.bench.dask_surface", "nbgather.dask"): "loads dask",
    ("nbgather.apps.bench.dataset_rows", "nbgather.dask.dataset"): "loads dask and zarr",
    ("nbgather.apps.bench.gather_rows", "nbgather.onnx"): "loads onnx",
    ("nbgather.apps.bench.loader_rows", "nbgather.torch"): "loads torch",
    ("nbgather.apps.bench.model_rows", "nbgather.onnx"): "loads onnx",
    ("nbgather.apps.bench.reduce_rows", "nbgather.onnx"): "loads onnx",
    ("nbgather.apps.bench.start", "nbgather.onnx"): "loads onnx",
    ("nbgather.apps.cli", "nbgather.apps.commands"): "loads typer, or says how to get it",
    ("nbgather.apps.commands.bench", "nbgather.apps.bench"): "one command's: --help stays quick",
    ("nbgather.apps.commands.bench", "nbgather.apps.bench.rows"): "the same",
    ("nbgather.apps.commands.bench", "nbgather.apps.bench.spatter"): "the same",
    ("nbgather.apps.commands.bench", "nbgather.apps.bench.surface"): "the same",
    ("nbgather.apps.commands.demo", "nbgather.apps.demo"): "one command's: --help stays quick",
    ("nbgather.apps.commands.gathers", "nbgather.explain"): "the same",
    ("nbgather.apps.commands.gathers", "nbgather.plotting"): "the same",
    ("nbgather.apps.commands.machine", "nbgather.apps.info"): "the same",
    ("nbgather", "nbgather.kernels.forks"): "the import brings in nothing",
    ("nbgather.apps.commands.machine", "nbgather.kernels.cpu.cache"): "loads llvmlite",
    ("nbgather.apps.commands.machine", "nbgather.apps.warmup"): "loads llvmlite",
    ("nbgather.apps.commands.masks", "nbgather.apps.albums"): "loads NumPy",
    ("nbgather.apps.commands.masks", "nbgather.apps.photos"): "one command's: --help stays quick",
    ("nbgather.apps.commands.masks", "nbgather.dask.dataset"): "loads dask",
    ("nbgather.apps.commands.masks", "nbgather.figures"): "one command's: --help stays quick",
    ("nbgather.apps.commands.machine", "nbgather.apps.selftest.run"): "loads NumPy",
    ("nbgather.apps.commands.machine", "nbgather.apps.selftest.ahead"): "loads NumPy",
    ("nbgather.apps.commands.models", "nbgather.onnx"): "loads onnx",
    ("nbgather.apps.commands.models", "nbgather.onnx.verify"): "loads onnx; it is the function",
    ("nbgather.apps.commands.page", "nbgather.apps.web"): "one command's: --help stays quick",
    ("nbgather.apps.demo", "nbgather.onnx"): "loads onnx",
    ("nbgather.apps.info", "nbgather.kernels.cpu.cache"): "loads llvmlite",
    ("nbgather.apps.info", "nbgather.kernels.cpu.shipped"): "loads llvmlite",
    ("nbgather.apps.info", "nbgather.kernels.cpu.variants"): "loads llvmlite",
    ("nbgather.apps.web.server", "nbgather.onnx"): "loads onnx",
    ("nbgather.kernels.cpu.compiler", "nbgather.kernels.cpu.build"): "loads numba",
    ("nbgather.kernels.cuda.compiler", "nbgather.kernels.cuda.memory"): "loads numba.cuda",
    ("nbgather.kernels.cuda.images", "nbgather.kernels.cuda.user_cache"): "loads llvmlite",
    ("nbgather.numba_ext", "nbgather.numba_ext.registration"): "only for who compiles a call",
}


class Import(NamedTuple):
    """An import statement inside a function."""

    module: str  # that holds it
    line: int
    imported: str


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in_functions(package: Path) -> Iterator[Import]:
    """Every import within a function or method of a package's modules."""
    modules = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    for module, path in modules.items():
        statements = {
            statement
            for function in ast.walk(ast.parse(path.read_text(), str(path)))
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
            for statement in ast.walk(function)
            if isinstance(statement, (ast.Import, ast.ImportFrom))
        }
        for statement in sorted(statements, key=lambda s: s.lineno):
            if isinstance(statement, ast.Import):
                names = [alias.name for alias in statement.names]
            else:
                # `from a import b` imports a.b where that is a module, and a otherwise. In our
                # own package that is looked up; for others the longer name is the better one.
                base = statement.module or ""
                longer = [f"{base}.{alias.name}" for alias in statement.names]
                ours = base.partition(".")[0] == package.name
                names = [base if ours and name not in modules else name for name in longer]
                assert not statement.level, f"{path}:{statement.lineno} is a relative import"
            for name in names:
                yield Import(module, statement.lineno, name)


def reason_of(found: Import) -> str | None:
    """Why an import may stand inside a function, or None where it may not."""
    own = OWN.get((found.module, found.imported))
    if own is not None:
        return own
    parts = found.imported.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return next((UNLOADED[prefix] for prefix in prefixes if prefix in UNLOADED), None)


def test_imports_inside_functions_have_a_reason() -> None:
    strays = [found for found in imports_in_functions(PACKAGE) if reason_of(found) is None]
    assert not strays, "\n".join(f"{s.module}:{s.line} imports {s.imported}" for s in strays)


def test_no_reason_outlives_its_import() -> None:
    pairs = {(found.module, found.imported) for found in imports_in_functions(PACKAGE)}
    assert set(OWN) <= pairs, set(OWN) - pairs


def test_a_stray_import_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "nbgather"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("class A:\n    def f(self):\n        import json\n")
    (package / "own.py").write_text("def f():\n    from nbgather import other\n    import torch\n")
    (package / "top.py").write_text("import json\nfrom nbgather import other\n")
    assert [(*found, reason_of(found) is None) for found in imports_in_functions(package)] == [
        ("nbgather.other", 3, "json", True),
        ("nbgather.own", 2, "nbgather.other", True),
        ("nbgather.own", 3, "torch", False),
    ]


# The contracts of import-linter


def lint(folder: Path) -> tuple[int, str]:
    """What ``lint-imports`` says of the package in a folder, and its exit status."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--config", "pyproject.toml"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "COLUMNS": "200", "NO_COLOR": "1"},
    )
    return done.returncode, done.stdout + done.stderr


def copy_to(folder: Path) -> Path:
    """A copy of the package and its contracts, to be broken."""
    shutil.copytree(PACKAGE, folder / "nbgather", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_contracts_hold(tmp_path: Path) -> None:
    status, text = lint(copy_to(tmp_path))
    assert status == 0, text
    assert "3 kept, 0 broken" in text


#: What breaks a contract: where a line is added, the line, and what is said of it.
BREAKS = {
    "operations call dispatch": (
        "operations/__init__.py", "import nbgather.dispatch",
        ("Imports point down", "nbgather.operations -> nbgather.dispatch"),
    ),
    "inside a function": (
        "kernels/__init__.py", "def f():\n    import nbgather.dispatch",
        ("Imports point down", "nbgather.kernels -> nbgather.dispatch"),
    ),
    "the engine knows a container": (
        "engine/__init__.py", "from nbgather import containers",
        ("Imports point down", "nbgather.engine -> nbgather.containers"),
    ),
    "torch knows dask": (
        "torch.py", "import nbgather.dask",
        ("Imports point down", "nbgather.torch -> nbgather.dask"),
    ),
    "a container calls a public function": (
        "containers/__init__.py", "from nbgather import gather",
        ("does not call them back", "nbgather.containers -> nbgather"),
    ),
    "operations know torch": (
        "operations/__init__.py", "import torch",
        ("know no array library", "nbgather.operations -> torch"),
    ),
    "operations know dask by way of another module": (
        "results.py", "import dask.array",
        ("know no array library", "nbgather.results -> dask"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is said of a package in which everything of ``BREAKS`` was done."""
    folder = copy_to(tmp_path_factory.mktemp("broken"))
    for file, line, _ in [
        *BREAKS.values(),
        ("operations/__init__.py", "import nbgather.results", ()),
    ]:
        with (folder / "nbgather" / file).open("a") as module:
            module.write(f"\n{line}\n")
    status, text = lint(folder)
    assert status == 1, text
    assert "0 kept, 3 broken" in text
    return text[text.index("Broken contracts") :]


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_forbidden_is_named(broken: str, name: str) -> None:
    contract, line = BREAKS[name][2]
    said = broken[broken.index(contract) :]
    assert line in said, broken


def test_a_module_in_no_layer_is_named(tmp_path: Path) -> None:
    (copy_to(tmp_path) / "nbgather" / "stray.py").touch()
    status, text = lint(tmp_path)
    assert status == 1, text
    assert "nbgather.stray" in text
