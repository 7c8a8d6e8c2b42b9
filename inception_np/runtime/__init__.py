"""A network run fast: its training passes replayed, its training step as a CUDA graph, its inference as a plan."""
