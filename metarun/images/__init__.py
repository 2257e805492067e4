"""Images as a store of examples: files are decoded once and cached, then drawn by index."""
