"""Numerical methods, independent of learning."""
