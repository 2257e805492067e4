"""The outer loop: the only place where meta-parameters change."""
