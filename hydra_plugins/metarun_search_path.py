"""What metarun adds to Hydra, where it is metarun that composes: its sweepers and launcher, and folders of plug-ins.

Hydra imports this module in every Hydra program of the environment, so it touches nothing in others.
"""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class MetarunSearchPath(SearchPathPlugin):
    """Searches the folders of `--config-dir` and of installed plug-ins after metarun's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        choices = sys.modules.get("metarun.experiment.choices")  # who composes metarun's configuration imported it
        entries = search_path.get_path()
        if choices is None or not any(e.provider == "main" and e.path == str(choices.CONF) for e in entries):
            return
        from metarun.experiment.hydra_groups import register

        register()
        for provider, folder in choices.added_folders():
            search_path.append(provider, f"file://{folder}")
