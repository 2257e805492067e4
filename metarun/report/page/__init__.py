"""The page of metarun-report: one file that needs no network."""
