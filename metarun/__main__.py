"""The `metarun` command."""

from metarun.cli import main

if __name__ == "__main__":
    main()
