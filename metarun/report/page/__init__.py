"""The HTML page of `metarun-report --html`: one file that needs no network."""
