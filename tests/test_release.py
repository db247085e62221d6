"""What a release is made of agrees with the package; a wrong release is noticed."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from script_modules import script_module

import nbgather

ROOT = Path(__file__).parents[1]
release = script_module("release")


def test_the_version_is_one() -> None:
    assert release.version() == nbgather.__version__
    release.check_texts(nbgather.__version__)
    with pytest.raises(SystemExit, match=r"CITATION\.cff has another version"):
        release.check_texts("9.9.9")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the standard library reads no TOML")
def test_the_recipe_depends_on_what_the_package_does() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    recipe = (ROOT / "scripts/conda/recipe.yaml").read_text()
    run = re.search(r"(?s)\n  run:\n(.*?)\n\n", recipe)[1]  # type: ignore[index]
    needs = {line.strip("- \n").replace(" ", "") for line in run.splitlines()}
    wanted = {"python" + project["project"]["requires-python"], *project["project"]["dependencies"]}
    assert needs == wanted
    host = recipe.partition("host:")[2].partition("run:")[0]
    (backend,) = project["build-system"]["requires"]
    assert backend in host.replace(" ", "")


def test_the_changes_of_a_version() -> None:
    assert release.changes(nbgather.__version__).startswith(f"# nbgather {nbgather.__version__}")
    assert "not released yet" in release.changes("9.9.9")


def test_a_wheel_without_kernels_is_noticed(tmp_path: Path) -> None:
    wheel, sdist = tmp_path / "x.whl", tmp_path / "x.tar.gz"
    listed = release.run("git", "ls-files", "nbgather").split()
    whole = [*listed, "CHANGELOG.md", "LICENSE", "CITATION.cff"]
    for names in ([n for n in listed if not n.endswith(".kernels")], listed):
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in names:
                archive.writestr(name, "")
        with tarfile.open(sdist, "w:gz") as packed:
            for name in whole if names is not listed else whole[:-1]:
                packed.addfile(tarfile.TarInfo(f"nbgather/{name}"))
        with pytest.raises(SystemExit, match="the wheel lacks" if names is not listed else "sdist"):
            release.check_contents(wheel, sdist)
