"""A page that masks photos in the browser, by the seeded ONNX model; served from this machine.

Nothing comes from elsewhere: ``server`` sends the page, the model and onnxruntime-web, whose files
``runtime`` finds or has npm fetch; ``index.html``, ``page.css`` and ``page.mjs`` are the page.
"""

from nbgather.apps.web.runtime import ORT_WEB, find_ort
from nbgather.apps.web.server import make_server

__all__ = ["ORT_WEB", "find_ort", "make_server"]
