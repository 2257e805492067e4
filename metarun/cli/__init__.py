"""The command line: Hydra's, with our words where it is mistyped."""
