"""Layers that are right under vmap and at second order."""
