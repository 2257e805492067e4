"""Plain networks; they know nothing of meta-learning."""
