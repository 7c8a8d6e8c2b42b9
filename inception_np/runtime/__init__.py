"""What runs a network: compiled passes, plans for inference, and the benchmark of both."""
