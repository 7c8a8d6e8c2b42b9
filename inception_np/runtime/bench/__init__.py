"""The benchmark: command.py compares and prints, side.py is one process, layers.py one layer, the rest its rivals."""
