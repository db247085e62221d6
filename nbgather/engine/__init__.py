"""Arrays that have memory: a specification and an address become a plan, a kernel, a result.

``backends`` is the table of what runs them; ``recycle`` hands out the memory of large results.
"""
