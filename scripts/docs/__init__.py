"""The documentation site: pages that are generated while mkdocs builds, and the pictures that are committed."""
