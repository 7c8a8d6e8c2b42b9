"""The deck, the backward passes and several workers as notebooks: their pages, the papers' claims, what is on them."""
