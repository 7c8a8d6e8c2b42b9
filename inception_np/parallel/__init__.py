"""Several workers that train one network: who they are, the tree their sums are in, and how gradients travel."""
