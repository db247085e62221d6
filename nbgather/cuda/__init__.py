"""What is called by name on an NVIDIA GPU: see :mod:`nbgather.cuda.device`."""
