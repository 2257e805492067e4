"""Images as a store under the sampler: decoded once, drawn by index."""
