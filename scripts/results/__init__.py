"""Measured results as data: the records in docs/results, and the tables that are rendered from them."""
