"""Baselines that meta-learners are compared with."""
