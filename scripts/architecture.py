"""Draw the layers of the package from its imports: ``python scripts/architecture.py``.

The rooms (the modules and folders of nbgather) and their order are those of the layers contract in
pyproject.toml; the imports are counted in the sources, and the words are the rooms' docstrings. A
room's row shows what it imports, its column who imports it. The picture is a part of the
documentation; ``--check`` fails if it is stale.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from html import escape
from pathlib import Path

import grimp
from importlinter import api

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "nbgather"
PICTURE = ROOT / "scripts" / "docs" / "architecture.svg"

#: Modules that are drawn as a part of another room.
MERGED = {"__main__": "apps"}

#: Sizes in pixels: the picture, a row, a room's box, and how far a box goes beyond its column.
WIDTH_PX, MARGIN_PX, ROW_PX = 900, 12, 36
BOX_WIDTH_PX, BOX_HEIGHT_PX, BEYOND_PX = 94, 24, 15
DOT_RADIUS_PX, LEGEND_PX = 9, 40
#: The width of an average character of a docstring.
CHARACTER_PX = 6.4
#: The colours of the page, of every other layer, of boxes, of lines and of numbers.
PAGE, STRIPE, BOX, OUTLINE, TEXT = "#ffffff", "#f1f4f8", "#ffffff", "#41566b", "#1d2b38"
LINE, DOT, MUTED, UPWARD = "#8fa1b3", "#2f5f8f", "#5d6b78", "#c62828"

#: What one room imports of another: how many pairs of modules.
Imports = Mapping[tuple[str, str], int]


def read_layers(config: Path) -> list[list[str]]:
    """The rooms of each layer, the highest first, from the contract of import-linter."""
    contracts = api.read_configuration(str(config))["contracts_options"]
    (layers,) = (c["layers"] for c in contracts if c["type"] == "layers")
    return [[name.strip(" ()") for name in re.split("[|:]", layer)] for layer in layers]


def count_imports(package: str = PACKAGE) -> Counter[tuple[str, str]]:
    """The imports between rooms; what stands in the package's own ``__init__`` has its name."""
    graph = grimp.build_graph(package)

    def room(module: str) -> str:
        name = module.split(".")[1] if "." in module else package
        return MERGED.get(name, name)

    return Counter(
        (room(importer), room(imported))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if room(importer) != room(imported)
    )


def place_rooms(layers: Sequence[Sequence[str]], imports: Imports) -> list[list[str]]:
    """The layers that are drawn: of rooms that exist, importers before what they import.

    The package's own ``__init__`` stands above the highest room that it imports. A room that no
    layer has stands below all of them, where every import of it and by it can be seen.
    """
    existing = {room for pair in imports for room in pair}
    placed = [[room for room in layer if room in existing] for layer in layers]
    placed = [layer for layer in placed if layer]
    named = {room for layer in placed for room in layer}
    if PACKAGE in existing - named:
        targets = {imported for importer, imported in imports if importer == PACKAGE}
        above = next((k for k, layer in enumerate(placed) if targets & set(layer)), len(placed))
        placed.insert(above, [PACKAGE])
    unplaced = sorted(existing - named - {PACKAGE})
    return [_importers_first(layer, imports) for layer in [*placed, unplaced] if layer]


def _importers_first(layer: Sequence[str], imports: Imports) -> list[str]:
    ordered: list[str] = []
    remaining = list(layer)
    while remaining:
        free = (
            room for room in remaining if not any((other, room) in imports for other in remaining)
        )
        ordered.append(next(free, remaining[0]))
        remaining.remove(ordered[-1])
    return ordered


def find_upward(layers: Sequence[Sequence[str]], imports: Imports) -> list[tuple[str, str]]:
    """The imports of a higher layer by a lower one."""
    level = {room: k for k, layer in enumerate(layers) for room in layer}
    return sorted(pair for pair in imports if level[pair[0]] > level[pair[1]])


def read_words(rooms: Sequence[str]) -> dict[str, str]:
    """The first sentence of each room's docstring."""
    words = {}
    for room in rooms:
        base = ROOT / PACKAGE if room == PACKAGE else ROOT / PACKAGE / room
        source = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        sentence = docstring.partition("\n")[0].replace("``", "").rstrip(".")
        words[room] = sentence.removeprefix(f"{room}: ")
    return words


def draw(layers: Sequence[Sequence[str]], imports: Imports, words: Mapping[str, str]) -> str:
    """The picture: boxes on the diagonal, an arrow for each pair of rooms."""
    rooms = [room for layer in layers for room in layer]
    first = MARGIN_PX + BOX_WIDTH_PX - BEYOND_PX
    step = min(48, (WIDTH_PX - MARGIN_PX - BEYOND_PX - first) // max(len(rooms) - 1, 1))
    xs = {room: first + step * k for k, room in enumerate(rooms)}
    ys = {room: MARGIN_PX + ROW_PX * k + ROW_PX // 2 for k, room in enumerate(rooms)}
    height = MARGIN_PX + ROW_PX * len(rooms) + LEGEND_PX
    upward = set(find_upward(layers, imports))
    beside = {(a, b) for a, b in imports if ys[a] > ys[b]} - upward

    parts = _stripes(layers, ys)
    leftward = {importer for importer, _ in upward | beside}
    for room in rooms:
        if room not in leftward:
            parts += _words(words.get(room, ""), xs[room], ys[room])
    parts += _lines(rooms, set(imports) - upward - beside, xs, ys)
    for pairs, head, colour in ((beside, "down", LINE), (upward, "up", UPWARD)):
        parts += [_upward_arrow(pair, xs, ys, head, colour) for pair in sorted(pairs)]
    parts += [_box(room, xs[room], ys[room]) for room in rooms]
    for pair in sorted(imports, key=lambda pair: (rooms.index(pair[0]), rooms.index(pair[1]))):
        colour = UPWARD if pair in upward else DOT
        parts.append(_number(pair, imports[pair], xs, ys, colour))
    parts.append(_legend(height, len(upward)))
    about = f"The layers of {PACKAGE}: {len(rooms)} rooms, {len(upward)} arrows point up"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height}"'
        f' viewBox="0 0 {WIDTH_PX} {height}" role="img" font-family="sans-serif">\n'
        f"<title>{about}</title>\n"
        "<defs>"
        + "".join(_arrowhead(name, colour) for name, colour in (("down", LINE), ("up", UPWARD)))
        + "</defs>\n"
        f'<rect width="{WIDTH_PX}" height="{height}" fill="{PAGE}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _arrowhead(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        f' markerHeight="7" orient="auto"><path d="M0 0.5L8 4L0 7.5z" fill="{colour}"/></marker>'
    )


def _stripes(layers: Sequence[Sequence[str]], ys: Mapping[str, int]) -> list[str]:
    """A background behind every other layer."""
    return [
        f'<rect x="0" y="{ys[layer[0]] - ROW_PX // 2}" width="{WIDTH_PX}"'
        f' height="{ROW_PX * len(layer)}" fill="{STRIPE}"/>'
        for layer in layers[::2]
    ]


def _words(text: str, x: int, y: int) -> list[str]:
    """What a room is, left of its box, where only arrows that point up would be; if it fits."""
    right = x + BEYOND_PX - BOX_WIDTH_PX - 10
    for short in (text, text.partition(":")[0]):
        if short and MARGIN_PX + CHARACTER_PX * len(short) <= right:
            return [
                f'<text x="{right}" y="{y + 4}" text-anchor="end" font-size="12"'
                f' fill="{MUTED}">{escape(short)}</text>'
            ]
    return []


def _legend(height: int, upward: int) -> str:
    """How to read the picture, below it."""
    verdict = f"{upward} arrows point up (red)." if upward else "No arrow points up."
    text = (
        "A stripe is a layer. Right of a box: what it imports, and how many times."
        f" Above a box: who imports it. {verdict}"
    )
    return (
        f'<text x="{MARGIN_PX + 4}" y="{height - MARGIN_PX}" font-size="13"'
        f' fill="{UPWARD if upward else TEXT}">{escape(text)}</text>'
    )


def _lines(
    rooms: Sequence[str], pairs: Set[tuple[str, str]], xs: Mapping[str, int], ys: Mapping[str, int]
) -> list[str]:
    """The arrows that point down: a line for each row, and for each column an arrow."""
    style = f'fill="none" stroke="{LINE}" stroke-width="1.3"'
    parts = []
    for room in rooms:
        ends = [xs[imported] for importer, imported in pairs if importer == room]
        if ends:
            start = xs[room] + BEYOND_PX
            parts.append(f'<path d="M{start} {ys[room]}H{max(ends)}" {style}/>')
    for room in rooms:
        begins = [ys[importer] for importer, imported in pairs if imported == room]
        if begins:
            end = ys[room] - BOX_HEIGHT_PX // 2
            path = f"M{xs[room]} {min(begins)}V{end}"
            parts.append(f'<path d="{path}" {style} marker-end="url(#down)"/>')
    return parts


def _upward_arrow(
    pair: tuple[str, str], xs: Mapping[str, int], ys: Mapping[str, int], head: str, colour: str
) -> str:
    """From the left side of a box up to another one; from its top where that is right above."""
    importer, imported = pair
    x, y = xs[imported], ys[importer]
    left = xs[importer] + BEYOND_PX - BOX_WIDTH_PX
    start = f"M{left} {y}H{x}" if x < left else f"M{x} {y - BOX_HEIGHT_PX // 2}"
    return (
        f'<path d="{start}V{ys[imported] + BOX_HEIGHT_PX // 2}" fill="none" stroke="{colour}"'
        f' stroke-width="1.3" marker-end="url(#{head})"/>'
    )


def _number(
    pair: tuple[str, str], count: int, xs: Mapping[str, int], ys: Mapping[str, int], colour: str
) -> str:
    importer, imported = pair
    x, y = xs[imported], ys[importer]
    if ys[imported] < y and x >= xs[importer] + BEYOND_PX - BOX_WIDTH_PX:
        y -= ROW_PX // 2  # the arrow leaves through the top of the box
    plural = "" if count == 1 else "s"
    return (
        f"<g><title>{escape(importer)} → {escape(imported)}: {count} import{plural}</title>"
        f'<circle cx="{x}" cy="{y}" r="{DOT_RADIUS_PX}" fill="{colour}"/>'
        f'<text x="{x}" y="{y + 4}" text-anchor="middle" font-size="11" fill="#ffffff">{count}'
        "</text></g>"
    )


def _box(room: str, x: int, y: int) -> str:
    left, top = x + BEYOND_PX - BOX_WIDTH_PX, y - BOX_HEIGHT_PX // 2
    return (
        f'<rect x="{left}" y="{top}" width="{BOX_WIDTH_PX}" height="{BOX_HEIGHT_PX}" rx="4"'
        f' fill="{BOX}" stroke="{OUTLINE}" stroke-width="1.4"/>'
        f'<text x="{left + BOX_WIDTH_PX // 2}" y="{y + 4}" text-anchor="middle" font-size="13"'
        f' font-weight="bold" fill="{TEXT}">{escape(room)}</text>'
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture, or check it; the exit code: 0 done, 1 stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if the picture is stale")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the picture")
    parser.add_argument(
        "--config", type=Path, default=ROOT / "pyproject.toml", help="where the layers stand"
    )
    options = parser.parse_args(arguments)
    imports = count_imports()
    layers = place_rooms(read_layers(options.config), imports)
    words = read_words([room for layer in layers for room in layer])
    picture = draw(layers, imports, words).encode()
    for importer, imported in find_upward(layers, imports):
        print(f"points up: {importer} imports {imported}", file=sys.stderr)
    if options.check:
        fresh = options.out.exists() and options.out.read_bytes() == picture
        print(f"{options.out.name} is", "up to date" if fresh else "stale: run this script")
        return 0 if fresh else 1
    options.out.write_bytes(picture)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
