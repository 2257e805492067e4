"""The commands, as data: every set of cells that can share a program is one fused multirun."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from metarun.run_folder import status_of

SEEDS = (0, 1, 2)
LABELS = {
    "maml": "MAML",
    "meta_sgd": "Meta-SGD",
    "tnet": "T-net",
    "mtnet": "MT-net",
    "mtnet_full": "MT-net-full",
    "mnet": "M-net",
    "mnet_full": "M-net-full",
}
SHOTS = (5, 10, 20)
ALPHAS = ("10", "1", "0.1", "0.01", "0.001", "0.0001")
FEW_ALPHAS = ("1", "0.1", "0.01", "0.0001")
ROBUST = ("maml", "tnet", "mtnet")
INITS = {"truncated_normal": "truncated normal 0.01 (the paper's)", "torch": "PyTorch's default", "xavier": "Xavier"}
ORDERS = (0, 1, 2)
POLYNOMIALS = {"ours": ("torch", "0.01"), "script": ("truncated_normal", "0.001")}  # initialisation and alpha
COMMON = ("tracker=none", "device.threads=1", "hydra.sweep.subdir=${hydra.job.num}")


class Sweep(NamedTuple):
    """One command: its name (also its folder's), what it sweeps, and how many cells that makes."""

    name: str
    overrides: tuple[str, ...]
    cells: int


def sweeps() -> list[Sweep]:
    """All commands, the longest first, so that both lanes end at about the same time."""
    seeds = "seed=" + ",".join(map(str, SEEDS))
    alphas = "algo.inner_lr=" + ",".join(FEW_ALPHAS)
    inits = "backbone.init=" + ",".join(INITS)
    varied = ("data=sinusoid_varied", "run.iterations=20000", seeds, alphas, inits)
    commands = [Sweep(f"init_{algo}", (f"algo={algo}", *varied), 36) for algo in ROBUST]
    for algo in ROBUST:
        names = ",".join(f"mtnet/learning_rate/{algo}_{alpha}" for alpha in ALPHAS)
        commands.append(Sweep(f"learning_rate_{algo}", (f"experiment={names}", seeds), 18))
    for kind, (init, alpha) in POLYNOMIALS.items():
        names = ",".join(f"mtnet/polynomial/order{order}" for order in ORDERS)
        overrides = (f"experiment={names}", f"backbone.init={init}", f"algo.inner_lr={alpha}", seeds)
        commands.append(Sweep(f"polynomial_{kind}", overrides, 9))
    for algo in LABELS:
        for shots in SHOTS:
            if not (algo in ROBUST and shots == 10):  # that cell is one of learning_rate's
                experiment = f"experiment=mtnet/sinusoid/{algo}_{shots}shot"
                commands.append(Sweep(f"sinusoid_{algo}_{shots}", (experiment, seeds), 3))
    return commands


def is_done(sweep: Sweep, folder: Path) -> bool:
    """Whether each of a sweep's cells, in its folder, has ended by itself: completed, or diverged."""
    return all(status_of(folder / str(index)) in ("completed", "diverged") for index in range(sweep.cells))
