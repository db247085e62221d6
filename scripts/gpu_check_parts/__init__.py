"""What scripts/gpu_check.py is made of.

``stages`` names the stages and their limits, ``supervise`` runs each in a process of its own, and
``report`` keeps what they find. ``device`` is the GPU and ``dry_run`` what stands for it where
there is none; ``data`` makes operands on it. The modules ``check_*`` compare, ``bench_*`` time by
``timing``, ``cold`` times new processes and ``tools`` runs compute-sanitizer and ncu. ``hashed``
are the calls whose results on the CPU are kept as digests, and ``stand_ins`` what is missing.
"""
