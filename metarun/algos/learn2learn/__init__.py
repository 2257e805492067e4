"""learn2learn's own classes as learners, for reference."""

from __future__ import annotations

from importlib.util import find_spec


def require_learn2learn() -> None:
    """Require that learn2learn is installed; it is not imported, which takes seconds.

    Raises:
        ValueError: it is not.
    """
    if find_spec("learn2learn") is None:
        raise ValueError(
            "algo=learn2learn/... needs the package learn2learn, which is not installed and which plain pip cannot "
            "build: docs/install.md says how"
        )
