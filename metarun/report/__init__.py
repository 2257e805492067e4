"""Output of runs for people, without torch: terminal, figures, tables of comparisons, and `metarun-report`."""
