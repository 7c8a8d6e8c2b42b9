"""The deck and the backward passes told as notebooks: their pages, the papers' claims, what a slide is made of."""
