"""Training and using a network. Read loop.py first."""
