"""Training: the outer loop, the only place where meta-parameters change, and what it needs."""
