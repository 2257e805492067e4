"""TODO."""

from __future__ import annotations

import math


def decimals_of(width: float) -> int:
    """As many decimals as half an interval has when it is written with two digits."""
    return max(0, 1 - math.floor(math.log10(width)))
