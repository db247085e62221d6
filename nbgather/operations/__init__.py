"""What each operation is: its checks and messages, result shapes and dtypes, gradient and batching.

An operation is a frozen, hashable, picklable value. Nothing here knows of an array library but
NumPy, of a container, or of a kernel: whoever executes one hands in what it is made of.
"""
