"""Where a run's numbers go: Weights & Biases, a JSON-lines file, the terminal."""
