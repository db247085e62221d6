"""What scripts/gpu_check.py is made of.

``device`` is what is checked and how, ``comparisons`` are the checks against the CPU; ``timing``
measures, ``rows`` are the benchmark and its targets.
"""
