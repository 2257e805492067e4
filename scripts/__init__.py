"""Scripts of the repository, not of the installed package: download data, measure speed, reproduce results."""
