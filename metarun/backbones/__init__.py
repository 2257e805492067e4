"""Networks, independent of meta-learning."""
