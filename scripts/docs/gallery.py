"""`make gallery`: pictures of tasks of every data set, and pictures that real runs made.

    python -m scripts.docs.gallery [NAME ...]

Pictures go to docs/images, those of data whose terms forbid that to outputs/gallery. Each run is a metarun command,
which the page shows; its folder is kept below outputs/gallery, and what it measured in docs/images/gallery/made.json.
Nothing stands in for data that is not there: its pictures are left out, which is said.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from metarun.experiment.choices import names
from metarun.tasks import DataError
from scripts.docs.draw import draw_predictions, draw_tasks, shrink
from scripts.docs.heads import ROOT
from scripts.docs.markdown import escaped, paragraphs, prose, shell
from scripts.docs.records import with_interval
from scripts.docs.sources import SOURCES

IMAGES = ROOT / "docs" / "images"
RUNS = ROOT / "outputs" / "gallery"
MADE = IMAGES / "gallery" / "made.json"


@dataclass(frozen=True)
class Entry:
    """A picture of the gallery.

    Attributes:
        title: its heading.
        text: what can be seen.
        command: words after `metarun`.
        data: whether the data may be shown.
        picture: its name in the run's folder; None: `draw` makes it.
        draw: draws from a run's folder to a path.
    """

    title: str
    text: str
    command: tuple[str, ...]
    data: str
    picture: str | None = None
    draw: Callable[[Path, Path], None] | None = None


ENTRIES: dict[str, Entry] = {
    "adapted_sinusoid": Entry(
        "Adapting to a sinusoid",
        "MAML on six held-out sinusoids: the prediction before adaptation, after one and after ten gradient steps on "
        "ten points. Every run on curves leaves this picture, `adapted_curves.png`.",
        ("algo=maml", "data=sinusoid", "run.iterations=6000", "device.threads=1"),
        "sinusoid",
        "adapted_curves.png",
    ),
    "omniglot_predictions": Entry(
        "Omniglot, character by character",
        "A held-out task of prototypical networks, 20-way 1-shot: the one drawing of each character that the learner "
        "is shown, and four queries of each, marked by whether the learner finds the right character (blue, a tick) or "
        "another (orange, a cross).",
        (
            *("algo=protonet", "data=omniglot", "data.partition=small", "data.ways=20", "data.shots=1"),
            *("data.queries=4", "data.train_ways=10", "data.train_queries=3", "backbone.filters=16"),
            *("run.iterations=300", "run.meta_batch_size=2", "run.eval_tasks=100", "run.val_tasks=20"),
            *("run.validate_every=150", "device.compile=false"),
        ),
        "omniglot",
        draw=draw_predictions,
    ),
    "lr_sensitivity": Entry(
        "Sensitivity to the inner learning rate",
        "The same learners over six inner learning rates, three seeds each, as `sweep=lr_sensitivity` runs them: "
        "MT-net's paper asks how wide the range of good rates is. Short runs, so the errors are larger than the "
        "paper's.",
        (
            *("-m", "sweep=lr_sensitivity", "algo=maml,meta_sgd,mtnet", "data=sinusoid_varied", "hydra/launcher=fused"),
            *("run.iterations=800", "run.validate_every=800", "device.threads=1"),
        ),
        "sinusoid_varied",
        "figure.png",
    ),
    "roc": Entry(
        "The same character or not",
        "A siamese network on pairs of unseen Omniglot characters: the ROC curve over all test pairs, with the point "
        "of equal error. Every run of verification leaves it, beside the distribution of the scores.",
        (
            *("algo=siamese", "data=omniglot_pairs", "data.partition=small", "run.iterations=400"),
            *("backbone.filters=16", "run.eval_tasks=100", "run.val_tasks=20", "run.validate_every=200"),
            "device.compile=false",
        ),
        "omniglot_pairs",
        "roc.png",
    ),
    "bands": Entry(
        "A Bayesian learner's bands",
        "ALPaCA on held-out sinusoids: the band should hold 95 % of the targets, and widens where there are no points.",
        ("algo=alpaca", "data=sinusoid", "data.shots=5", "run.iterations=4000", "device.threads=1"),
        "sinusoid",
        "adapted_curves.png",
    ),
    "reliability": Entry(
        "Can its confidence be believed?",
        "Share of targets within ALPaCA's central intervals against the share that they claim, of the run above: on "
        "the diagonal they are right, below it too narrow.",
        ("algo=alpaca", "data=sinusoid", "data.shots=5", "run.iterations=4000", "device.threads=1"),
        "sinusoid",
        "reliability.png",
    ),
    "ambiguous": Entry(
        "A line or a sinusoid?",
        "PLATIPUS on five noisy points that could be of either: thin lines are functions that it samples for a task.",
        ("algo=platipus", "data=sinusoid_line", "run.iterations=1500", "run.validate_every=750", "device.threads=1"),
        "sinusoid_line",
        "adapted_curves.png",
    ),
    "instances": Entry(
        "Remembering labels",
        "MANN reads points and their labels one after the other: accuracy where a class is shown for the first, the "
        "second ... time.",
        ("algo=mann", "data=clusters", "run.iterations=800", "run.eval_tasks=200", "device.threads=1"),
        "clusters",
        "instances.png",
    ),
    "learned_optimizer": Entry(
        "A learned optimizer",
        "The value of held-out quadratic functions while an LSTM minimises them, step by step.",
        (
            *("algo=l2l_optimizer", "data=quadratics", "run.iterations=60", "run.curve_steps=100"),
            *("run.eval_tasks=100", "run.validate_every=30", "device.threads=1"),
        ),
        "quadratics",
        "step_curve.png",
    ),
}


# ------------------------------------------------------------------------------------------------------- the page


def pages() -> dict[str, str]:
    return {"gallery.md": page()}


def page() -> str:
    """The gallery, of the pictures that are there."""
    made: dict[str, dict[str, Any]] = json.loads(MADE.read_text()) if MADE.is_file() else {}
    parts = [
        "# Gallery",
        "Pictures that real runs made, each with its command; `make gallery` makes them again. Runs are short, for two "
        "cores: pictures, not results. Colours are Okabe and Ito's, which can be told apart with any common colour "
        "blindness. [Data sets](/data/index.md) shows tasks of each.",
    ]
    for name, entry in ENTRIES.items():
        if not picture_of(name).is_file():
            continue  # not made yet
        parts += [
            f"## {entry.title}",
            prose(entry.text),
            f"![{escaped(entry.title)}](/images/gallery/{name}.png){{ loading=lazy }}",
            shell(_command(entry)),
        ]
        if name in made:
            parts.append(_caption(made[name]))
    return paragraphs(*parts)


def picture_of(name: str) -> Path:
    """Where a picture of the gallery lies."""
    return IMAGES / "gallery" / f"{name}.png"


def _command(entry: Entry) -> str:
    root = " data.root=data" if "data.root" in SOURCES[entry.data].layout else ""
    return f"metarun {' '.join(entry.command)}{root}"


def _caption(made: dict[str, Any]) -> str:
    """When it was made, and what the run measured."""
    text = f"Made on {made['date']}"
    if made.get("mean") is not None:
        figure = with_interval(made["mean"], made["ci95"], made["metric"])
        text += f": {made['metric']} {figure} over {made['tasks']} held-out tasks"
    return f"{text}."


# ---------------------------------------------------------------------------------------------------- the making


def run(entry: Entry) -> Path:
    """The folder of an entry's run or multirun; entries with the same command share it.

    Raises:
        CalledProcessError: metarun failed.
    """
    first = next(other for other, of in ENTRIES.items() if of.command == entry.command)
    folder = RUNS / "runs" / first
    done = folder / ("sweep.json" if "-m" in entry.command else "result.json")
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        place = f"hydra.{'sweep' if '-m' in entry.command else 'run'}.dir={folder}"
        subprocess.run([sys.executable, "-m", "metarun", *entry.command, "tracker=none", place], check=True, cwd=ROOT)
    return folder


def make(name: str, entry: Entry) -> None:
    """Run, and put the picture into docs/."""
    if not SOURCES[entry.data].public:
        raise ValueError(f"{name} shows {entry.data}, of which no picture may be published")
    folder = run(entry)
    target = picture_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.draw is not None:
        entry.draw(folder, target)
    else:
        shutil.copyfile(folder / str(entry.picture), target)
    shrink(target)
    made = json.loads(MADE.read_text()) if MADE.is_file() else {}
    made[name] = facts(folder)
    MADE.write_text(json.dumps(dict(sorted(made.items())), indent=1) + "\n")


def facts(folder: Path) -> dict[str, Any]:
    """The date and, of a single run, what it measured."""
    common: dict[str, Any] = {"date": date.today().isoformat()}
    path = folder / "result.json"
    if not path.is_file():
        return common
    result = json.loads(path.read_text())
    return common | {key: result[key] for key in ("metric", "mean", "ci95", "tasks")}


def make_data(data: str) -> None:
    """Draw tasks of a data set, where it is there."""
    folder = IMAGES / "data" if SOURCES[data].public else RUNS / "data"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{data}.png"
    try:
        draw_tasks(data, target)
    except DataError as error:
        print(f"{data}: left out, for {str(error).splitlines()[0].partition('.')[0]}", file=sys.stderr)
        return
    if SOURCES[data].public:
        shrink(target)
    print(target.relative_to(ROOT))


def main() -> None:
    """Make the pictures that are named, else all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"data, or {', '.join(ENTRIES)}; none: all")
    wanted = parser.parse_args().names or ["data", *ENTRIES]
    if unknown := sorted(set(wanted) - {"data", *ENTRIES, *names("data")}):
        parser.error(f"NAME must be data, a data set, or one of {', '.join(ENTRIES)}; got {', '.join(unknown)}")
    for name in wanted:
        if name in ENTRIES:
            make(name, ENTRIES[name])
            print(picture_of(name).relative_to(ROOT))
        else:
            for data in names("data") if name == "data" else [name]:
                make_data(data)


if __name__ == "__main__":
    main()
