"""The cells of the sweeps, as records call them: runs that differ in their seed alone."""

from __future__ import annotations

from collections import defaultdict

from scripts.reproduce.mtnet.results import Results, RunResult
from scripts.reproduce.mtnet.subspace import subspace
from scripts.reproduce.mtnet.sweeps import SEEDS, Sweep, sweeps
from scripts.results.from_runs import Runs

TARGET = "mtnet"


def name_of(sweep: Sweep, run: RunResult) -> str:
    """What a run's cell is called: the sweep, then what it varies but the seed."""
    kind = sweep.name.partition("_")[0]
    algo, config = run.result["algo"], run.config
    rate = config["algo"].get("inner_lr", config["algo"].get("initial_rates", [None])[0])
    if sweep.name.startswith("sinusoid"):
        return f"sinusoid {algo} {config['data']['shots']}-shot"
    if kind == "polynomial":
        return f"{sweep.name.replace('_', ' ')} order {config['data']['order']}"
    words = [config["backbone"]["init"]] if kind == "init" else []
    return " ".join([sweep.name[: -len(algo) - 1], algo, *words, f"{rate:g}" if rate >= 0.001 else f"{rate:.4f}"])


def cells(results: Results) -> list[Runs]:
    """The cells of which every seed left a result."""
    found = []
    for sweep in sweeps():
        runs: dict[str, dict[int, RunResult]] = defaultdict(dict)
        for run in results.of_sweep(sweep.name):
            runs[name_of(sweep, run)][run.result["seed"]] = run
        for name, by_seed in runs.items():
            if by_seed.keys() >= set(SEEDS):
                chosen = [by_seed[seed] for seed in SEEDS]
                others = [_subspace(run) for run in chosen] if sweep.name.startswith("polynomial") else []
                found.append(Runs(TARGET, name, [run.folder for run in chosen], "fused", others))
    return found


def _subspace(run: RunResult) -> dict[str, float]:
    """Dominant directions of a run's learned subspace, and the mean mask of each layer, from the first on."""
    found = subspace(run)
    masks = {f"mask_{layer}": value for layer, value in enumerate(found.masks.values(), 1)}
    return {"directions": float(found.dimensions), **masks}
