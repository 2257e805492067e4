"""The version of metarun, for the build and for records."""

__version__ = "0.1.0"
