"""The command ``web``: the page that masks photos in a browser."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from nbgather.apps.commands.terminal import Debug


def web(
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 for any free one.")] = 8000,
    ort: Annotated[
        Path | None,
        typer.Option(help="The dist folder of onnxruntime-web; by default npm fetches it once."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    debug: Debug = False,
) -> None:
    """Serve a page that masks photos in the browser; nothing comes from elsewhere."""
    from nbgather.apps.web import find_ort, make_server

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbgather"
    with make_server(find_ort(ort, cache), port) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"serving {address} (Ctrl-C ends it)", flush=True)
        if open_page:
            typer.launch(address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
