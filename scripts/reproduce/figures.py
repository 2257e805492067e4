"""The figures of a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from metarun.report.style import label, new_figure


def draw_optimizers(curves: Mapping[str, Mapping[int, float]], problem: str, path: Path) -> None:
    """Draw loss against step, the first curve thicker."""
    with new_figure(path, (5.0, 3.4)) as figure:
        axes = figure.subplots()
        for index, (name, curve) in enumerate(curves.items()):
            axes.plot(list(curve), list(curve.values()), label=name, linewidth=1.2 if index else 2.4)
        axes.set_yscale("log")
        label(axes, "step", f"loss, {problem}")
        axes.legend(frameon=False, fontsize=8)
