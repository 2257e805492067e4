"""Reading and comparing finished runs, without torch: the tables of a sweep, and `metarun-report`."""
