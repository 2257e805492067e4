"""One data set, one file: `data=NAME` is `data/NAME.py`."""
