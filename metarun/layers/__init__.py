"""Layers whose results and second-order gradients are correct under vmap."""
