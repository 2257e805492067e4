"""The commands, as data: every set of cells that can share a program is one fused multirun."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from metarun.run_folder import (
    FORMAT,
    DamagedFileError,
    has_config,
    is_same_config,
    read_config,
    result_or_empty,
    status_of,
)
from scripts.reproduce.run import FINISHED
from scripts.results.configuration import composed

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
# Every alpha at 20,000 iterations, whatever the learner calls it: Meta-SGD's learned rates all begin there.
SENSITIVE = {algo: f"algo.inner_lr={','.join(ALPHAS)}" for algo in ("maml", "tnet", "mtnet")}
SENSITIVE["meta_sgd"] = "algo.initial_rates=" + ",".join(f"[{alpha},{alpha}]" for alpha in ALPHAS)
INITS = {"truncated_normal": "truncated normal 0.01 (the paper's)", "torch": "PyTorch's default", "xavier": "Xavier"}
ORDERS = (0, 1, 2)
POLYNOMIALS = {"ours": ("torch", "0.01"), "script": ("truncated_normal", "0.001")}  # initialisation and alpha
COMMON = ("tracker=none", "device.threads=1", "hydra.sweep.subdir=${hydra.job.num}")


class Sweep(NamedTuple):
    """One command: its name (also its folder's), what it sweeps, and how many cells that makes."""

    name: str
    overrides: tuple[str, ...]
    cells: int

    def expanded(self) -> list[list[str]]:
        """The overrides of each cell, `COMMON` ones apart."""
        words = OverridesParser.create().parse_overrides(list(self.overrides))
        values = [
            [f"{word.key_or_group}={value}" for value in word.sweep_string_iterator()]
            if word.is_sweep_override()
            else [word.input_line or ""]
            for word in words
        ]
        return [list(cell) for cell in itertools.product(*values)]


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
    for algo, rates in SENSITIVE.items():
        commands.append(Sweep(f"sensitivity_{algo}", (f"algo={algo}", *varied[:2], rates, seeds), 18))
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
    return all(status_of(folder / str(index)) in FINISHED for index in range(sweep.cells))


def why_other_sweep(sweep: Sweep, folder: Path) -> str | None:
    """Why what lies in a folder is not this sweep; None: it is, as far as it has come, or nothing lies there."""
    folders = [folder / str(index) for index in range(sweep.cells) if has_config(folder / str(index))]
    wanted = [composed([*cell, *COMMON[:2]]) for cell in sweep.expanded()] if folders else []
    for own in folders:
        result = result_or_empty(own)
        if result and result.get("format") != FORMAT:
            return f"the result of cell {own.name} has format {result.get('format', 0)}, not {FORMAT}"
        try:
            saved = read_config(own)
        except DamagedFileError as error:
            return str(error)
        if not any(is_same_config(saved, config) for config in wanted):
            return f"the configuration of cell {own.name} is another"
    return None
