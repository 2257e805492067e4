"""Where the numbers of a run are recorded: a JSON-lines file, Weights & Biases."""
