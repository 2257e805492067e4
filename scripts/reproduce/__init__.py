"""The project's own measurements: runs, tables and figures that `make reproduce-...` makes again."""
