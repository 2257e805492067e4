"""Download a data set: the same as `python -m metarun.data.download`."""

import sys

from metarun.data.download import main

if __name__ == "__main__":
    sys.exit(main())
