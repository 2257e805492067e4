"""What held-out tasks say of a learner: metrics, intervals, calibration."""
