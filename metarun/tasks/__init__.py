"""Distributions of tasks: what a learner is trained and judged on."""
