"""The bench's rows as benchmarks of asv."""
