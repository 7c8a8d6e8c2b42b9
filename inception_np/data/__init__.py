"""Data sets and batches, and all that the package reads and writes beside weights."""
