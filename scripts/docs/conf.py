"""Sphinx: the README, two pages, and the reference from the docstrings."""

import nbgather

project, author, copyright = "nbgather", "The nbgather developers", "The nbgather developers"
version = release = nbgather.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"nbgather {version}"
templates_path: list[str] = []
exclude_patterns: list[str] = []
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings say shapes and dtypes
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "imported-members": False}
suppress_warnings = ["myst.xref_missing"]  # the README's links to files of the repository
