"""Make and check what a release consists of, in a folder; nothing leaves this machine.

    python scripts/release.py [FOLDER] [--no-docs]

Every check that fails ends it with one line. The wheel is installed in fresh environments, alone
and with extras, from files that were fetched before, and used where no network can be reached.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: A socket that connects to nothing: what a fresh environment must do without.
NO_NETWORK = """
import socket
def refuse(*arguments, **options):
    raise OSError("there is no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
EXTRAS = ("onnx", "dask", "cli")


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def run(*words: object, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True, text=True, cwd=ROOT, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        fail(f"{' '.join(map(str, words[:6]))}: {lines[-1] if lines else done.returncode}")
    return str(done.stdout)


def version() -> str:
    found = re.search(r'__version__ = "([^"]+)"', (ROOT / "nbgather/__init__.py").read_text())
    assert found
    return found[1]


def changes(of: str) -> str:
    """The part of the changelog of a version, or what is not released yet."""
    text = (ROOT / "CHANGELOG.md").read_text()
    parts = re.split(r"(?m)^## ", text)[1:]
    for part in parts:
        title, _, body = part.partition("\n")
        if title.startswith((f"[{of}]", of)) and body.strip():
            return f"# nbgather {of}\n{body}"
    for part in parts:
        title, _, body = part.partition("\n")
        if title.startswith("[Unreleased]") and body.strip():
            return f"# nbgather {of}, not released yet\n{body}"
    fail("CHANGELOG.md says nothing of this version")
    raise AssertionError


def check_texts(of: str) -> None:
    """Versions that are written in more than one place are the same."""
    for name in ("CITATION.cff", "scripts/conda/recipe.yaml"):
        if not re.search(rf"(?m)^ *version: {re.escape(of)}$", (ROOT / name).read_text()):
            fail(f"{name} has another version than nbgather/__init__.py: {of}")


def check_contents(wheel: Path, sdist: Path) -> None:
    """Both hold what git holds of the package, the compiled kernels too."""
    listed = run("git", "ls-files", "nbgather").split()
    if not any(name.endswith(".kernels") for name in listed):
        fail("no compiled kernels are committed: python scripts/build_kernels.py")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    lacking = sorted(set(listed) - held)
    if lacking:
        fail(f"the wheel lacks {lacking[:5]}")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    lacking = sorted({*listed, "CHANGELOG.md", "LICENSE", "CITATION.cff"} - held)
    if lacking:
        fail(f"the sdist lacks {lacking[:5]}")


def bill_of_materials(folder: Path, python: Path, of: str) -> None:
    """What an installation consists of, as CycloneDX, from the environment that has just it.

    By cyclonedx-bom where it is installed, else the same facts from the packages' own metadata.
    """
    target = folder / "nbgather.cdx.json"
    try:
        import cyclonedx_py  # noqa: F401
    except ImportError:
        code = (
            "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version,"
            " d.metadata.get('License-Expression') or '') for d in m.distributions()]))"
        )
        found = json.loads(run(python, "-c", code))
        components = [
            {
                "type": "library", "name": name, "version": number,
                "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{number}",
                **({"licenses": [{"expression": words}]} if words else {}),
            }
            for name, number, words in sorted(found)
            if name not in ("nbgather", "pip", "setuptools")
        ]  # fmt: skip
        main = {
            "type": "library",
            "name": "nbgather",
            "version": of,
            "purl": f"pkg:pypi/nbgather@{of}",
        }
        bill = {
            "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
            "metadata": {"component": main}, "components": components,
        }  # fmt: skip
        target.write_text(json.dumps(bill, indent=1) + "\n")
        return
    run(
        sys.executable, "-m", "cyclonedx_py", "environment", python,
        "--output-reproducible", "--output-file", target,
    )  # fmt: skip


def fresh(folder: Path, wheel: Path, store: Path, extras: tuple[str, ...]) -> Path:
    """An environment with the wheel and some extras, made of fetched files alone."""
    home = folder / ("alone" if not extras else "with_extras")
    run(sys.executable, "-m", "venv", home)
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    pip = [home / "bin/python", "-m", "pip"]
    run(*pip, "download", "-q", "--dest", store, "-c", "constraints.txt", wanted)
    run(*pip, "install", "-q", "--no-index", "--find-links", store, "-c", "constraints.txt", wanted)
    run(*pip, "check")
    return home / "bin/python"


@functools.cache
def _apart() -> tuple[str, ...]:
    """What runs a command in a network of its own, with nothing in it, where that is allowed."""
    words = ("unshare", "--map-root-user", "--net")
    if shutil.which("unshare") is None:
        return ()
    return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else ()


def use(python: Path, script: str, *words: str) -> str:
    """A script of the repository in a fresh environment, without a network."""
    code = f"{NO_NETWORK}\nimport runpy, sys\nsys.argv = [{script!r}, *{list(words)!r}]\n"
    code += f"runpy.run_path({str(ROOT / 'scripts' / script)!r}, run_name='__main__')"
    return run(*_apart(), python, "-I", "-c", code).strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="build/release")
    parser.add_argument("--no-docs", action="store_true", help="leave the documentation out")
    given = parser.parse_args()
    folder, of = (ROOT / given.folder).resolve(), version()
    work = folder / "environments"
    shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True)
    check_texts(of)
    (folder / "changes.md").write_text(changes(of))
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    check_contents(wheel, sdist)
    print(f"built {wheel.name} ({wheel.stat().st_size} bytes) and {sdist.name}", flush=True)
    alone = fresh(work, wheel, work / "files", ())
    print(use(alone, "smoke.py"), flush=True)
    bill_of_materials(folder, alone, of)
    extended = fresh(work, wheel, work / "files", EXTRAS)
    print("extras: " + use(extended, "smoke_extras.py", *EXTRAS), flush=True)
    if not given.no_docs:
        run(
            sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html",
            "scripts/docs", folder / "docs",
        )  # fmt: skip
    shutil.copytree(ROOT / "scripts/conda", folder / "conda")
    shutil.rmtree(work)
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    print(f"made {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}")
    print(f"to publish: git tag v{of} && git push --tags, then twine upload {folder}/nbgather-*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
