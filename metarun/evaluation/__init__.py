"""Evaluation on held-out tasks: metrics, intervals, calibration."""
