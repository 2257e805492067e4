"""Download a data set: the same as `python -m metarun.tasks.download`."""

import sys

from metarun.tasks.download import main

if __name__ == "__main__":
    sys.exit(main())
