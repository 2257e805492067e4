"""One data set, one file: `data=NAME` is `data/NAME.py`; the other files are what they share."""
