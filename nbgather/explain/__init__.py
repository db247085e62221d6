"""Small gathers cell by cell: where each output came from, and which gathers could have made it.

``gathers`` works an explanation out, ``cells`` is what it consists of, ``explanation`` is what the
user gets, and ``as_text``, ``as_svg`` and ``as_figure`` draw it.
"""

from nbgather.explain.explanation import Explanation
from nbgather.explain.gathers import explain_gather, explain_inverse
from nbgather.explain.gathers import worked_example as worked_example

__all__ = ["Explanation", "explain_gather", "explain_inverse"]
