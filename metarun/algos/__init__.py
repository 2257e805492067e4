"""Learners: one paper, one file, one class."""
