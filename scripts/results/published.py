"""What a paper prints for a record's cell: the entry of `paper` in its configuration, where it is of the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.results.records import Published

UNREAD = ("not verified", "memory")  # in the status of an entry: nobody has read it in its source
# With these values of a key a run is not what the entries of its setting are of.
OTHERS: dict[str, tuple[Any, ...]] = {
    "data.partition": ("small",),  # our own, smaller division of Omniglot
    "data.classes_per_way": (2, 3),
    "algo.fce": (True,),  # full context embeddings: Vinyals et al. print their Omniglot figures without
}


def published(paper: Any, config: Mapping[str, Any]) -> Published | None:
    """The entry for a configuration's ways and shots; None: there is none, or none that was read.

    Args:
        paper: the node `paper` of a composed configuration.
        config: what is recorded of that configuration.
    """
    data = config["data"]
    if any(config.get(group, {}).get(key) in values for (group, key), values in _split(OTHERS)):
        return None
    for entry in paper or ():
        if all(entry.get(key) in (None, data.get(key)) for key in ("ways", "shots")):
            unread = any(word in str(entry.get("status") or "") for word in UNREAD)
            table = str(entry.get("table") or "")
            return None if unread else Published(entry["value"], entry.get("ci95"), entry["source"], table)
    return None


def _split(values: Mapping[str, tuple[Any, ...]]) -> list[tuple[tuple[str, str], tuple[Any, ...]]]:
    return [((key.partition(".")[0], key.partition(".")[2]), found) for key, found in values.items()]
