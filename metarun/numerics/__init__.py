"""Numerical methods that know nothing of learning."""
