"""The figures beside the report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarun.report.sweep_figures import Line, bars, sensitivity
from scripts.reproduce.mtnet.results import Results
from scripts.reproduce.mtnet.subspace import DOMINANT, Subspace
from scripts.reproduce.mtnet.sweeps import ALPHAS, FEW_ALPHAS, INITS, LABELS, ORDERS, ROBUST


def draw(results: Results, subspaces: Mapping[str, Sequence[Subspace]], folder: Path) -> None:
    """Draw all figures that there are results for into `folder`."""
    copy_curves(results, folder)
    drawn_rates = lines(results, "learning_rate", ALPHAS, {}, published=True)
    any_published = any(value is not None for line in drawn_rates for value in line.published)
    rates = {"hollow: published" if any_published else "": drawn_rates}
    inits = {
        label: lines(results, "init", FEW_ALPHAS, {"backbone.init": init}, published=False)
        for init, label in INITS.items()
    }
    for panels, name in ((rates, "learning_rates"), (inits, "initialisations")):
        values = [mean for drawn in panels.values() for line in drawn for seeds in line.seeds for mean in seeds]
        if any(value is not None for value in values):  # a log scale needs one
            sensitivity(panels, "MSE after one step", folder / f"{name}.png")
    for kind, entries in subspaces.items():
        draw_subspaces(entries, kind, folder)


def copy_curves(results: Results, folder: Path) -> None:
    """The first seed's function on six sinusoids, before and after 1 and 10 steps, as its run drew it."""
    for algo in ROBUST:
        for run in results.sinusoid(algo, 10)[:1]:
            shutil.copy(run.folder / "adapted_curves.png", folder / f"adapted_curves_{algo}.png")


def lines(
    results: Results, sweep: str, alphas: Sequence[str], values: Mapping[str, Any], published: bool
) -> list[Line]:
    """A line over inner learning rates for each algorithm.

    Args:
        results: of all sweeps.
        sweep: name of the algorithms' sweeps, without the algorithm.
        alphas: inner learning rates.
        values: other values that the configuration must have, by dotted key.
        published: show the published figures too.
    """
    rates = [float(alpha) for alpha in alphas]
    curves = []
    for algo in ROBUST:
        points = [results.select(f"{sweep}_{algo}", {**values, "algo.inner_lr": rate}) for rate in rates]
        seeds = [[run.mean for run in runs] for runs in points]
        figures = [runs[0].published if published and runs else None for runs in points]
        curves.append(Line(LABELS[algo], rates, seeds, [figure["value"] if figure else None for figure in figures]))
    return curves


def draw_subspaces(subspaces: Sequence[Subspace], kind: str, folder: Path) -> None:
    """Masks by layer, and the number of dominant directions, against the polynomials' order."""
    by_order = [[s for s in subspaces if s.order == order] for order in ORDERS]
    names = [f"order {order}" for order in ORDERS]
    masks = {layer: [[s.masks[layer] for s in group] for group in by_order] for layer in subspaces[0].masks}
    panels = {"mean probability that a unit is updated": masks}
    bars(panels, names, "P(updated)", folder / f"subspace_masks_{kind}.png")
    directions = {"directions": [[float(s.dimensions) for s in group] for group in by_order]}
    title = f"singular values of the prediction changes of at least {DOMINANT:.0%}"
    bars({title: directions}, names, "dominant directions", folder / f"subspace_directions_{kind}.png")
