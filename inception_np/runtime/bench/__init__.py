"""`inception-np bench`: command.py compares and prints, side.py is one process, peers.py our networks in PyTorch."""
