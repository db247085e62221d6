"""The picture of the layers: what it shows of imports, and that its script notices a stale one."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
from script_modules import script_module

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("grimp", reason="import-linter is not installed")

LAYERS = [["apps"], ["torch", "dask"], ["indexing"], ["engine", "absent"], ["files"]]
IMPORTS = {
    ("apps", "dask"): 2,
    ("apps", "files"): 11,
    ("dask", "torch"): 1,
    ("torch", "nbgather"): 1,
    ("nbgather", "indexing"): 1,
    ("indexing", "engine"): 3,
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_module("architecture")


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


def test_rooms_stand_in_the_order_of_their_layers(script: ModuleType) -> None:
    placed = script.place_rooms(LAYERS, IMPORTS)
    # Of a layer, the importer first; the package's own names above what they are made of.
    assert placed == [
        ["apps"],
        ["dask", "torch"],
        ["nbgather"],
        ["indexing"],
        ["engine"],
        ["files"],
    ]
    svg = script.draw(placed, IMPORTS, {"files": "Written whole or not at all: or so"})
    words = texts(svg)
    rooms = [room for layer in placed for room in layer]
    assert [word for word in words if word in rooms] == rooms
    assert [int(word) for word in words if word.isdigit()] == [2, 11, 1, 1, 1, 3]
    assert "Written whole or not at all: or so" in words
    assert "No arrow points up." in words[-1]
    assert script.UPWARD not in re.sub("<defs>.*</defs>", "", svg)


def test_what_points_up_is_red(script: ModuleType) -> None:
    imports = IMPORTS | {("engine", "indexing"): 1, ("files", "apps"): 2}
    placed = script.place_rooms(LAYERS, imports)
    assert script.find_upward(placed, imports) == [("engine", "indexing"), ("files", "apps")]
    svg = script.draw(placed, imports, {})
    assert svg.count(f'stroke="{script.UPWARD}"') == 2
    assert svg.count(f'r="{script.DOT_RADIUS_PX}" fill="{script.UPWARD}"') == 2
    assert "2 arrows point up (red)." in texts(svg)[-1]


def test_a_room_without_a_layer_is_shown_below_all(script: ModuleType) -> None:
    placed = script.place_rooms(LAYERS, IMPORTS | {("new", "engine"): 1})
    assert placed[-1] == ["new"]


def test_a_stale_picture_is_noticed(script: ModuleType, tmp_path: Path) -> None:
    config, out = tmp_path / "pyproject.toml", tmp_path / "picture.svg"
    config.write_text(
        '[tool.importlinter]\nroot_package = "nbgather"\n'
        '[[tool.importlinter.contracts]]\nname = "n"\ntype = "layers"\n'
        'layers = ["apps", "torch | (onnx) : dask", "kernels"]\n'
    )
    assert script.read_layers(config) == [["apps"], ["torch", "onnx", "dask"], ["kernels"]]
    arguments = ["--config", str(config), "--out", str(out)]
    assert script.main([*arguments, "--check"]) == 1
    assert script.main(arguments) == 0
    first = out.read_bytes()
    assert script.main([*arguments, "--check"]) == 0
    assert script.main(arguments) == 0
    assert out.read_bytes() == first
    out.write_bytes(first.replace(b"apps", b"other"))
    assert script.main([*arguments, "--check"]) == 1
