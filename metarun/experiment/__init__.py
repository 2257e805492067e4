"""One experiment: from a configuration to a folder that says everything about it."""
