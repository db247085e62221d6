"""The self-test: cases recomputed on this machine, against digests that come with the package."""
