"""The `metarun` command."""

from metarun.cli.main import main

if __name__ == "__main__":
    main()
