"""What arrays stand on: whose they are and where (arrays, device), their memory (arena), and how kernels are run on
them (program, threads). errors.py has what can go wrong for a user of the command line.

Importing this package loads nothing else, so that the command line's help needs no NumPy.
"""
